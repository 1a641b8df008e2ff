"""Chat messages, and the plain form a chat template reads.

A template sees what transformers shows it: a text for a content, and the arguments of a call as a
value, not as JSON text. The old function calls are turned into tool calls.
Spec: https://platform.openai.com/docs/api-reference/chat/create.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from lorax_serve.server.errors import MalformedBody, ServeError
from lorax_serve.server.schema.common import MAX_FIELD_BYTES, decode, invalid, unsupported

Name = Annotated[str, Meta(max_length=256)]
MAX_PARTS: Final = 4096
MAX_CALLS: Final = 128

_ROLES: Final = ("developer", "system", "user", "assistant", "tool", "function")


class ContentPart(Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: str | dict[str, object] | None = None  # JSON text; none is as good as `{}`


class ToolCall(Struct, frozen=True):
    function: FunctionCall | None = None
    id: Name | None = None
    type: Name | None = None  # function


class Message(Struct, frozen=True):
    """One turn. Keys beyond these are labels without effect on the prompt."""

    role: str
    content: str | Annotated[tuple[ContentPart, ...], Meta(max_length=MAX_PARTS)] | None = None
    refusal: str | None = None  # of an assistant that gave no content
    reasoning_content: str | None = None  # for templates that show past reasoning
    name: Name | None = None
    tool_call_id: Name | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=MAX_CALLS)] | None = None
    function_call: FunctionCall | None = None


def template_messages(messages: Sequence[Message]) -> list[dict[str, object]]:
    """What a chat template reads. Raises ServeError naming by its path what cannot be rendered."""
    rendered = []
    last_call_id: str | None = None  # of the old function calls, which have none
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.role == "assistant" and message.function_call is not None:
            last_call_id = f"{index:09}"  # nine digits: what Mistral's templates insist on
        rendered.append(_template_message(message, path, last_call_id))
    return rendered


def _template_message(message: Message, path: str, call_id: str | None) -> dict[str, object]:
    if message.role not in _ROLES:
        raise invalid(f"{path}.role", f"must be one of {', '.join(_ROLES)}")
    text = _text(message.content, path)
    match message.role:
        case "assistant":
            turn = _assistant(message, text, path, call_id)
        case "tool":
            turn = {"role": "tool", "content": text or "", "tool_call_id": message.tool_call_id}
        case "function":
            turn = {"role": "tool", "content": text or "", "tool_call_id": call_id}
        case role:
            turn = {"role": role, "content": text or ""}
    if message.role != "assistant":
        _check_no_calls(message, path)
    turn["name"] = message.name
    return {key: value for key, value in turn.items() if value is not None or key == "content"}


def _assistant(
    message: Message, text: str | None, path: str, call_id: str | None
) -> dict[str, object]:
    calls = [
        _call(call, f"{path}.tool_calls[{index}]")
        for index, call in enumerate(message.tool_calls or ())
    ]
    if message.function_call is not None:
        if calls:
            raise invalid(f"{path}.function_call", "cannot be given beside `tool_calls`")
        called = _function(message.function_call, f"{path}.function_call")
        calls = [{"id": call_id, "type": "function", "function": called}]
    if not text and message.refusal is not None:
        text = message.refusal
    return {
        "role": "assistant",
        "content": text if calls else text or "",  # templates tell null from "" beside calls
        "reasoning_content": message.reasoning_content,
        "tool_calls": calls or None,
    }


def _call(call: ToolCall, path: str) -> dict[str, object]:
    if call.type not in (None, "function"):
        raise unsupported(f"{path}.type", "only calls of functions are read")
    if call.function is None:
        raise invalid(f"{path}.function", "is required")
    called: dict[str, object] = {} if call.id is None else {"id": call.id}
    return {**called, "type": "function", "function": _function(call.function, f"{path}.function")}


def _function(function: FunctionCall, path: str) -> dict[str, object]:
    return {"name": function.name, "arguments": _arguments(function.arguments, f"{path}.arguments")}


def _arguments(given: str | dict[str, object] | None, path: str) -> dict[str, object]:
    if isinstance(given, dict):
        return given
    if given is None or not given.strip():
        return {}
    if len(given) > MAX_FIELD_BYTES:
        raise invalid(path, f"is larger than {MAX_FIELD_BYTES // 1024} KiB")
    try:
        return decode(given.encode(), dict[str, object])
    except (ServeError, MalformedBody):
        raise invalid(path, "is not the JSON text of an object") from None


def _check_no_calls(message: Message, path: str) -> None:
    for field in ("tool_calls", "function_call"):
        if getattr(message, field):
            raise invalid(f"{path}.{field}", "belongs to messages of the assistant")


def _text(content: str | tuple[ContentPart, ...] | None, path: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    return "".join(_part(part, f"{path}.content[{i}]") for i, part in enumerate(content))


def _part(part: ContentPart, path: str) -> str:
    match part.type:
        case "text" if part.text is not None:
            return part.text
        case "refusal" if part.refusal is not None:
            return part.refusal
        case "text" | "refusal":
            raise invalid(f"{path}.{part.type}", "is required")
        case other:
            raise unsupported(path, f"a part of type {other[:32]!r} is not read, only text is")
