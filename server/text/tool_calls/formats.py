"""The formats in which model families write calls, and which one a chat template teaches.

Hermes and Qwen: `<tool_call>{"name": …, "arguments": …}</tool_call>`, one after another.
Llama 3: `{"name": …, "parameters": …}`, perhaps behind `<|python_tag|>`, separated by `;`.
Mistral: `[TOOL_CALLS][{"name": …, "arguments": …}, …]`, newer ones `[TOOL_CALLS]name{…}`.
"""

import enum
from dataclasses import dataclass
from typing import Final

from lorax_serve.grammar.call_rules import CallFamily


@dataclass(frozen=True, slots=True)
class CallFormat:
    """`opening` comes before calls, `closing` after them, `separators` stand between them.

    `family`: whose it is; None: no model's own.
    `starts_open`: a text that begins with an object is a call without an opening.
    `bare_names`: a call may be its function's name with the arguments behind it.
    `marks_are_special`: the markers are special tokens, which texts leave out unless asked.
    """

    opening: str
    family: CallFamily | None = None
    closing: str = ""
    separators: str = ""
    starts_open: bool = False
    bare_names: bool = False
    marks_are_special: bool = False


class ToolCallParser(enum.Enum):
    """Values of `--tool-call-parser`."""

    AUTO = "auto"
    HERMES = "hermes"
    LLAMA3_JSON = "llama3_json"
    MISTRAL = "mistral"
    NONE = "none"


FORMATS: Final = {
    ToolCallParser.HERMES: CallFormat("<tool_call>", CallFamily.HERMES, "</tool_call>"),
    ToolCallParser.LLAMA3_JSON: CallFormat(
        "<|python_tag|>",
        CallFamily.LLAMA3_JSON,
        separators=";",
        starts_open=True,
        marks_are_special=True,
    ),
    ToolCallParser.MISTRAL: CallFormat(
        "[TOOL_CALLS]",
        CallFamily.MISTRAL,
        separators="[],",
        bare_names=True,
        marks_are_special=True,
    ),
}
# What a server asks for when a call is forced: an array of calls and nothing else.
FORCED_CALLS: Final = CallFormat("", separators="[],", starts_open=True)

_LLAMA_WORDS: Final = ("<|python_tag|>", "Environment: ipython")


def format_taught_by(template: str) -> CallFormat | None:
    """The format whose markers a template's text holds; None if it teaches none of these."""
    if "<tool_call>" in template:
        return FORMATS[ToolCallParser.HERMES]
    if "[TOOL_CALLS]" in template:
        return FORMATS[ToolCallParser.MISTRAL]
    if any(word in template for word in _LLAMA_WORDS):
        return FORMATS[ToolCallParser.LLAMA3_JSON]
    return None
