"""A conversation as the prompt its model was trained on.

Templates come from the model's folder, never from a request. They run in Jinja's immutable
sandbox, in the environment Hugging Face templates are written for. The sandbox keeps a template
from reaching Python; it does not bound the time and memory a hostile one can burn, so the operator
must trust the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.text.tokenizer_config import TokenizerConfig

MAX_RENDERED_CHARS = 16 * 2**20
MAX_MESSAGE_CHARS = 300
DEFAULT = "default"
TOOL_USE = "tool_use"

Message = Mapping[str, object]


class RaisedByTemplate(jinja2.TemplateError):
    """The template called `raise_exception`; the message is its own."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The model's templates, compiled, and the special tokens they may name."""

    templates: Mapping[str, jinja2.Template]
    special_tokens: Mapping[str, object]

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTemplate | None":
        """None when the folder has no chat template.

        chat_template.jinja and additional_chat_templates/ go before tokenizer_config.json.

        Raises:
            StartError: a template does not parse, or none is the default.
        """
        config = TokenizerConfig.from_folder(folder)
        sources = _template_files(folder) or _configured(config.chat_template)
        if not sources:
            return None
        if DEFAULT not in sources:
            raise StartError(f"{folder} has chat templates, but none of them is named {DEFAULT!r}.")
        environment = _environment()
        templates = {name: _compile(environment, name, text) for name, text in sources.items()}
        return cls(templates, config.template_variables())

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt text, special tokens spelled out: encode it without adding any.

        With `tools`, a template named `tool_use` is preferred. `extra` names further template
        variables; it cannot replace ours.

        Raises:
            ServeError: INVALID_REQUEST with the template's own words when it refuses the
                conversation, without them when it fails; CONTEXT_LENGTH_EXCEEDED for a text over
                `MAX_RENDERED_CHARS`.
        """
        variables = {
            **self.special_tokens,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        extra = dict(extra or {})
        if clash := sorted(extra.keys() & variables.keys()):
            raise _refused(f"The template variable {clash[0]!r} cannot be set by a request.")
        named = TOOL_USE if tools is not None and TOOL_USE in self.templates else DEFAULT
        return _render(self.templates[named], {"documents": None, **variables, **extra})


class GenerationBlocks(Extension):
    """`{% generation %}` marks what the assistant says, for training; here it is only shown."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)  # variables set inside stay inside


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise RaisedByTemplate(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _template_files(folder: Path) -> dict[str, str]:
    single = folder / "chat_template.jinja"
    files = {DEFAULT: single} if single.is_file() else {}
    files.update({p.stem: p for p in (folder / "additional_chat_templates").glob("*.jinja")})
    try:
        return {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    except (OSError, ValueError) as error:
        raise StartError(f"A chat template of {folder} cannot be read: {error}.") from error


def _configured(value: object) -> dict[str, str]:
    """`chat_template` of tokenizer_config.json: one text, a list of named ones, or an object."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        value = {item.get("name"): item.get("template") for item in value}
    if isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(text, str) for name, text in value.items()
    ):
        return value
    raise StartError("chat_template in tokenizer_config.json must be a text or named texts.")


def _compile(environment: ImmutableSandboxedEnvironment, name: str, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except Exception as error:  # jinja2's own, or Python's for a `break` outside a loop
        raise StartError(f"The chat template {name!r} does not parse: {error}.") from error


def _render(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    blocks: list[str] = []
    num_chars = 0
    try:
        for block in template.generate(variables):
            num_chars += len(block)
            if num_chars > MAX_RENDERED_CHARS:
                break
            blocks.append(block)
    except RaisedByTemplate as error:
        raise _refused(_bounded(str(error))) from error
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


def _refused(message: str) -> ServeError:
    return ServeError(ErrorCode.INVALID_REQUEST, message, param="messages")
