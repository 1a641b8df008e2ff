"""Requests to every address of an OpenAPI document, most of them wrong in some way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final
from urllib.parse import quote

from hypothesis import strategies as st

from fuzzed_json import Draw, ValidJson, damaged, mutated, written

MAX_BODY_BYTES: Final = 2048

METHODS: Final = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW", "post")
CONTENT_TYPES: Final = (
    None,
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "application/json; charset=utf-16",
    "application/json; charset=nonsense",
    "application/json;;;",
    "APPLICATION/JSON",
    "application/vnd.api+json",
    "application/xml",
    "json",
    "\xff/\xfe",
)
# What is right comes first and last, where hypothesis looks most.
_WRONG: Final = ("method", "header", "target", "body", "header")
_RIGHT: Final = ("nothing",) * 10
_WRONG_WITH_BODY: Final = (*_RIGHT, "method", "target", "type", "header", "header", *_RIGHT)
_BODIES: Final = ("mutated",) * 8 + ("valid", "damaged", "damaged") + ("mutated",) * 5
_MOSTLY: Final = (True, True, False, True, True)
HEADERS: Final = (
    ("Content-Encoding", "gzip"),
    ("Content-Encoding", "identity"),
    ("Content-Encoding", "nonsense"),
    ("Expect", "100-continue"),
    ("Expect", "nonsense"),
    ("Accept", "image/png;q=0"),
    ("Accept-Encoding", "br, gzip;q=nonsense"),
    ("Authorization", "Bearer"),
    ("Authorization", "Bearer \xff\xfe"),
    ("Authorization", "Basic ====="),
    ("Authorization", "x" * 5000),
    ("X-Adapter-Token", "\xe9"),
    ("X-Adapter-Token", "x" * 5000),
    ("x-request-id", ""),
    ("x-request-id", "a b\tc"),
    ("x-request-id", "\xff" * 20),
    ("x-request-id", "y" * 3000),
    ("Cookie", "=;=;="),
    ("Range", "bytes=5-2"),
    ("If-None-Match", "*"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Content-Type", "application/json"),  # a second one
    ("Host", "other"),
    ("Host", ""),
    ("Transfer-Encoding", "nonsense"),
    ("Transfer-Encoding", "chunked"),
    ("Content-Length", "-1"),
    ("Content-Length", "5"),
    ("Content-Length", "9" * 30),
    ("X-Forwarded-For", "::1, , nonsense"),
    ("x" * 200, "y"),
)
TARGETS: Final = (
    "{}/",
    "/{}",
    "//{}",
    "{}?",
    "{}?stream=true&x=%ff&=",
    "{}#part",
    "/%2e%2e{}",
    "{}/%00",
    "{}%",
    "/v1{}",
    "{}/../..",
    "/\xe9{}",
)


class Way(Enum):
    """How a request travels."""

    LENGTH = auto()  # of its body, told beforehand
    CHUNKED = auto()
    HTTP_1_0 = auto()
    BAD_CHUNKS = auto()
    CUT = auto()  # the client ends before its body does
    LEFT = auto()  # the client goes before the reply ends


_WAYS: Final = (*[Way.LENGTH] * 12, *Way, *[Way.LENGTH] * 6)
_MAX_READ: Final = 600  # of a reply that is left: none of it, its headers, or some events


@dataclass(frozen=True)
class Fuzzed:
    """A request, and the documented operation that it began as."""

    operation_id: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_operation: bool  # method and target are still those
    is_wrong: bool  # it was made so; it may be accepted nevertheless
    way: Way
    cut: int  # where chunks end, or the client does

    def encoded(self) -> bytes:
        """HTTP by hand: a client would refuse to send most of it."""
        version = "1.0" if self.way is Way.HTTP_1_0 else "1.1"
        lines = [f"{self.method} {self.target} HTTP/{version}"]
        lines += [f"{name}: {value}" for name, value in (*self.headers, self._framing)]
        head = "\r\n".join([*lines, "", ""])
        return head.encode("latin-1", errors="replace") + self._framed

    @property
    def _framing(self) -> tuple[str, str]:
        if self.way in (Way.CHUNKED, Way.BAD_CHUNKS):
            return "Transfer-Encoding", "chunked"
        return "Content-Length", str(len(self.body) + (self.way is Way.CUT))

    @property
    def _framed(self) -> bytes:
        if self.way is Way.CUT:
            return self.body[: self.cut]
        if self.way not in (Way.CHUNKED, Way.BAD_CHUNKS):
            return self.body
        cut = self.cut % (len(self.body) + 1)
        pieces = [piece for piece in (self.body[:cut], self.body[cut:]) if piece]
        lie = 3 if self.way is Way.BAD_CHUNKS else 0
        chunks = [b"%x\r\n%b\r\n" % (len(piece) + lie, piece) for piece in pieces]
        return b"".join(chunks) + (b"zz\r\n\r\n" if lie else b"0\r\n\r\n")


class RequestMaker:
    def __init__(
        self, document: Mapping[str, Any], hints: Mapping[str, tuple[Any, ...]], admin_key: str
    ) -> None:
        self._json = ValidJson(document, hints)
        self._names = hints["adapter_id"]
        self._admin_key = admin_key
        self._operations = [
            (path, method.upper(), operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]
        # Where there is a body there is more to be wrong about.
        self._operations += [each for each in self._operations if "requestBody" in each[2]] * 3

    def requests(self) -> st.SearchStrategy[Fuzzed]:
        return st.composite(lambda draw: self._request(draw))()

    def _request(self, draw: Draw) -> Fuzzed:
        path, method, operation = draw(st.sampled_from(self._operations))
        named = draw(st.sampled_from(self._names)) or "x"
        target = re.sub(r"{\w+}", quote(named), path.replace("{tenant}", "acme"))
        has_body = "requestBody" in operation
        body, is_wrong = self._body(draw, operation) if has_body else (b"", False)
        content_type: str | None = "application/json"
        extra: list[tuple[str, str]] = []
        is_operation = True
        wrong = draw(st.sampled_from(_WRONG_WITH_BODY if has_body else _WRONG))
        way = draw(st.sampled_from(_WAYS))
        if way is Way.BAD_CHUNKS:
            is_operation, is_wrong = False, True
        match wrong:
            case "method":
                method = draw(st.sampled_from([each for each in METHODS if each != method]))
                is_operation = False
            case "target":
                target = draw(st.sampled_from(TARGETS)).format(target)
                is_operation = False
            case "type":
                content_type = draw(st.sampled_from(CONTENT_TYPES))
            case "header":
                extra.append(draw(st.sampled_from(HEADERS)))
            case "body":
                body = draw(st.sampled_from((b'{"x": 1}', b"\xff", b"[" * 900)))
        if content_type is not None:
            extra.append(("Content-Type", content_type))
        if "operator" in operation["tags"] and draw(st.sampled_from(_MOSTLY)):
            extra.append(("Authorization", f"Bearer {self._admin_key}"))
        return Fuzzed(
            operation_id=operation["operationId"],
            method=method,
            target=target,
            headers=(("Host", "fuzz"), ("Connection", "close"), *extra),
            body=body,
            is_operation=is_operation,
            is_wrong=is_wrong or wrong != "nothing",
            way=way,
            cut=draw(st.integers(0, _MAX_READ)),
        )

    def _body(self, draw: Draw, operation: Mapping[str, Any]) -> tuple[bytes, bool]:
        """And whether anything was done to it."""
        [content] = operation["requestBody"]["content"].values()
        value = content.get("example", {})
        if draw(st.sampled_from(_MOSTLY)):
            value = self._json.draw(draw, content["schema"])
        kind = draw(st.sampled_from(_BODIES))
        if kind == "valid":
            return written(draw, value, [])[:MAX_BODY_BYTES], False
        body = mutated(draw, value)
        if kind == "damaged":
            body = damaged(draw, body)
        return body[:MAX_BODY_BYTES], True
