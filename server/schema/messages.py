"""Chat messages, and the plain form a chat template reads."""

from msgspec import Raw, Struct

from lorax_serve.server.schema.common import ABSENT, given_json, invalid, unsupported


class ContentPart(Struct, frozen=True):
    type: str
    text: str | None = None


class Message(Struct, frozen=True):
    """One turn. Keys beyond these are labels without effect on the prompt."""

    role: str
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    tool_calls: Raw = ABSENT
    function_call: Raw = ABSENT


def template_messages(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    """What a chat template reads. Raises ServeError naming a part that cannot be rendered."""
    return [_template_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _template_message(message: Message, path: str) -> dict[str, object]:
    for field in ("tool_calls", "function_call"):
        if given_json(getattr(message, field)) not in (None, b"[]"):
            raise unsupported(f"{path}.{field}")
    if message.role in ("tool", "function"):
        raise unsupported(f"{path}.role", "tool results are not read")
    if message.role not in ("developer", "system", "user", "assistant"):
        raise invalid(f"{path}.role", "must be developer, system, user or assistant")
    role = "system" if message.role == "developer" else message.role
    rendered: dict[str, object] = {"role": role, "content": _text(message.content, path)}
    if message.name is not None:
        rendered["name"] = message.name
    return rendered


def _text(content: str | tuple[ContentPart, ...] | None, path: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for i, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise unsupported(f"{path}.content[{i}]", "only text parts are read")
    return "".join(part.text or "" for part in content)
