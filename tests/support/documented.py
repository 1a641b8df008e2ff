"""Whether replies are what an OpenAPI document says of them, to the last field."""

import copy
import json
from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, TypeChecker, validators

from raw_http import RawReply

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
MAX_ERROR_BYTES: Final = 1024
# Statuses that are of no operation: HTTP's own, for addresses and methods that are not there.
HTTP_STATUSES: Final = (400, 403, 404, 405, 415, 417, 422, 424)


class Documented:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self.operations: Mapping[str, Any] = {
            operation["operationId"]: operation
            for item in document["paths"].values()
            for operation in item.values()
        }
        self._open = document["components"]
        self._closed = _closed(copy.deepcopy(document["components"]))

    def allows(self, operation: Mapping[str, Any], body: bytes) -> bool:
        """Whether the document lets this be sent."""
        [content] = operation["requestBody"]["content"].values()
        try:
            value = json.loads(body)
        except ValueError:
            return False
        return _validator(content["schema"], self._open).is_valid(value)

    def check(self, operation: Mapping[str, Any], reply: RawReply) -> None:
        """Raises AssertionError or jsonschema's ValidationError."""
        if "x-request-id" not in reply.headers:  # no HTTP, so of no operation
            return check_error(reply)
        described = operation["responses"].get(str(reply.status))
        assert described is not None, f"{reply.status} is not documented"
        names = {name.lower() for name in described["headers"]}
        sent = {name for name in reply.headers if name.startswith("x-")} - {"x-accel-buffering"}
        assert sent <= names, f"{sent - names} are not documented"
        if "content" not in described:
            assert reply.body == b""
            return
        schema = described["content"][reply.content_type]["schema"]
        if reply.content_type == EVENTS:
            self._check_events(operation, schema, reply.body)
        elif reply.content_type == JSON:
            _validator(schema, self._closed).validate(json.loads(reply.body))
        if reply.status >= 400:
            assert len(reply.body) <= MAX_ERROR_BYTES

    def _check_events(self, operation: Mapping[str, Any], schema: Any, body: bytes) -> None:
        """Each fits; the last one is the end, not an error, and nothing stands behind it."""
        *events, rest = body.split(b"\n\n")
        assert rest == b""
        frames = [event.removeprefix(b"data: ") for event in events if event != b": keep-alive"]
        assert all(event.startswith((b"data: ", b": keep-alive")) for event in events)
        if "OpenAI" in operation["tags"]:
            assert frames.pop() == b"[DONE]"
        validator = _validator(schema, self._closed)
        shown = [json.loads(frame) for frame in frames]
        for each in shown:
            validator.validate(each)
        if "LoRAX" in operation["tags"]:
            assert [each["generated_text"] is not None for each in shown] == [
                each is shown[-1] for each in shown
            ]


def check_error(reply: RawReply) -> None:
    """Of no operation: one of both APIs' shapes."""
    assert reply.status in HTTP_STATUSES, reply
    if reply.status == 417:  # aiohttp's own, see server/expectations.py
        return
    assert reply.content_type == JSON
    assert len(reply.body) <= MAX_ERROR_BYTES
    error = json.loads(reply.body)["error"]
    assert isinstance(error, str) or error.keys() == {"message", "type", "param", "code"}


def _is_integer(checker: TypeChecker, value: object) -> bool:
    """As the document's description has it: 1.0 is none."""
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def _validator(schema: Any, components: Any) -> Any:
    return _Validator({**schema, "components": components})


def _closed(value: Any) -> Any:
    """Schemas of objects that hold what they say and nothing else."""
    if isinstance(value, dict):
        if "properties" in value and value.get("type") == "object":
            value.setdefault("additionalProperties", False)
        for each in value.values():
            _closed(each)
    elif isinstance(value, list):
        for each in value:
            _closed(each)
    return value
