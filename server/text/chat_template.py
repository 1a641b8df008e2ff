"""A conversation as the prompt its model was trained on.

Templates come from the model's folder, never from a request. What they are shown is what
transformers' `apply_chat_template` shows them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.text.chat_template_environment import (
    BUDGET,
    Budget,
    CompiledTemplate,
    OutOfTime,
    RaisedByTemplate,
    compile_template,
    template_environment,
)
from lorax_serve.server.text.chat_template_files import DEFAULT, template_sources
from lorax_serve.server.text.continued_message import ContinuedMessage, Message
from lorax_serve.server.text.tokenizer_config import TokenizerConfig

MAX_RENDERED_CHARS = 16 * 2**20
MAX_MESSAGE_CHARS = 300
MAX_RENDER_SECONDS: Final = 10.0  # of processor time; a long chat takes some milliseconds
TOOL_USE: Final = "tool_use"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The model's templates, compiled, and the special tokens they may name."""

    templates: Mapping[str, CompiledTemplate]
    special_tokens: Mapping[str, object]

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTemplate | None":
        """None when the folder has no chat template.

        Raises:
            StartError: a template does not parse, or none is the default.
        """
        config = TokenizerConfig.from_folder(folder)
        sources = template_sources(folder, config.chat_template)
        if not sources:
            return None
        return cls.from_sources(sources, config.template_variables())

    @classmethod
    def from_sources(
        cls, sources: Mapping[str, str], special_tokens: Mapping[str, object]
    ) -> "ChatTemplate":
        """`sources` by name, the default among them. Raises StartError when one does not parse."""
        environment = template_environment()
        templates = {
            name: compile_template(environment, name, text) for name, text in sources.items()
        }
        return cls(templates, special_tokens)

    @property
    def shows_tools(self) -> bool:
        """Whether the template tells the model of its tools."""
        return self.reads("tools", with_tools=True)

    @property
    def text_for_tools(self) -> str:
        """The template of a request that has tools."""
        return self._chosen(True).source

    def reads(self, word: str, *, with_tools: bool) -> bool:
        """Whether the template names the variable, the field or the text `word`; `with_tools`: the
        one for a request that has some.
        """
        return word in self._chosen(with_tools).words

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, object]] | None = None,
        documents: Sequence[Mapping[str, object]] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt text, special tokens spelled out: encode it without adding any.

        With `tools`, a template named `tool_use` is preferred. With `continue_final_message`, the
        text ends where the last message's content does. `extra` names further template variables;
        it cannot replace ours. A developer is a system to templates that know no developers.

        Raises:
            ServeError: INVALID_REQUEST with the template's own words when it refuses the
                conversation, without them when it fails, and when it would leave out documents or
                tool calls; CONTEXT_LENGTH_EXCEEDED for a text over `MAX_RENDERED_CHARS`.
        """
        template = self._chosen(tools is not None)
        variables = {
            **self.special_tokens,
            "messages": messages,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        extra = dict(extra or {})
        if clash := sorted(extra.keys() & variables.keys()):
            raise _refused(f"The template variable {clash[0]!r} cannot be set by a request.")
        _check_nothing_left_out(template, messages, documents)
        messages = _without_developers(template, messages)
        if not continue_final_message:
            return _render(template, {**extra, **variables, "messages": messages})
        continued = ContinuedMessage(messages)
        text = _render(template, {**extra, **variables, "messages": continued.messages})
        return continued.cut(text)

    def _chosen(self, with_tools: bool) -> CompiledTemplate:
        named = TOOL_USE if with_tools and TOOL_USE in self.templates else DEFAULT
        return self.templates[named]


def _check_nothing_left_out(
    template: CompiledTemplate,
    messages: Sequence[Message],
    documents: Sequence[Mapping[str, object]] | None,
) -> None:
    if documents and "documents" not in template.words:
        raise _refused("The model's chat template does not read documents.", "documents")
    for index, message in enumerate(messages):
        if message.get("tool_calls") and "tool_calls" not in template.words:
            path = f"messages[{index}].tool_calls"
            raise _refused("The model's chat template does not read tool calls.", path)


def _without_developers(
    template: CompiledTemplate, messages: Sequence[Message]
) -> Sequence[Message]:
    if "developer" in template.words:
        return messages
    return [
        {**each, "role": "system"} if each.get("role") == "developer" else each for each in messages
    ]


def _render(template: CompiledTemplate, variables: Mapping[str, object]) -> str:
    blocks: list[str] = []
    num_chars = 0
    budget = Budget(MAX_RENDER_SECONDS)
    try:
        for block in template.program.generate({**variables, BUDGET: budget}):
            num_chars += len(block)
            if num_chars > MAX_RENDERED_CHARS:
                break
            blocks.append(block)
    except RaisedByTemplate as error:
        raise _refused(_bounded(str(error))) from error
    except OutOfTime as error:
        raise _refused("The model's chat template takes too long over these messages.") from error
    except Exception as error:  # a template can raise whatever its expressions can
        raise _refused("The model's chat template cannot render these messages.") from error
    if num_chars > MAX_RENDERED_CHARS:
        raise ServeError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The rendered conversation is longer than {MAX_RENDERED_CHARS} characters.",
            param="messages",
        )
    return "".join(blocks)


def _bounded(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}…"


def _refused(message: str, param: str = "messages") -> ServeError:
    return ServeError(ErrorCode.INVALID_REQUEST, message, param=param)
