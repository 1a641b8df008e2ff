"""Texts that hold calls, right and wrong ones, as models of each family write them."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from grammar_tokenizers import byte_level_tokenizer
from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.server.text.tool_calls.events import Arguments, CallBegun, ToolEvent
from lorax_serve.server.text.tool_calls.formats import FORMATS, ToolCallParser
from lorax_serve.server.text.tool_calls.readers import CallReader

CITY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
ANYTHING: Final[dict[str, Any]] = {"type": "object"}
FUNCTIONS: Final = {"weather": CITY, "clock": ANYTHING}

MARKS: Final = {
    CallFamily.HERMES: "<tool_call>",
    CallFamily.LLAMA3_JSON: "<|python_tag|>",
    CallFamily.MISTRAL: "[TOOL_CALLS]",
}
# (name, whether texts leave it out)
CONTROL: Final = (
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<think>", False),
    ("<|python_tag|>", True),
    ("[TOOL_CALLS]", True),
    ("[CALL_ID]", True),
    ("[ARGS]", True),
    ("<|hidden|>", True),
    ("{{", False),
)


def marked_tokenizer() -> Tokenizer:
    """A vocabulary that has the marks of all families as tokens, and others beside them."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(
        [AddedToken(name, special=is_special, normalized=False) for name, is_special in CONTROL]
    )
    return tokenizer


def call_text(family: CallFamily, name: str, arguments: object, gap: str = " ") -> str:
    """A call's object in the family's words."""
    key = "parameters" if family is CallFamily.LLAMA3_JSON else "arguments"
    text = json.dumps({"name": name, key: arguments})
    return text.replace(": ", f":{gap}").replace(", ", f",{gap}")


def whole_call(family: CallFamily, call: str) -> str:
    """The object with the family's marks around it."""
    match family:
        case CallFamily.HERMES:
            return f"<tool_call>\n{call}\n</tool_call>"
        case CallFamily.LLAMA3_JSON:
            return f"<|python_tag|>{call}"
        case CallFamily.MISTRAL:
            return f"[TOOL_CALLS][{call}]"


def read_calls(family: CallFamily, pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Name and arguments of every call that the server's reader finds in a text."""
    reader = CallReader(FORMATS[ToolCallParser(family.value)])
    events: list[ToolEvent] = [event for piece in pieces for event in reader.push(piece)]
    calls: list[tuple[str, str]] = []
    for event in [*events, *reader.finish()]:
        match event:
            case CallBegun(name):
                calls.append((name, ""))
            case Arguments(more):
                calls[-1] = (calls[-1][0], calls[-1][1] + more)
    return calls
