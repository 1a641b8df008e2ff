"""A bucket on the loopback interface that misbehaves on request: as much of S3's protocol as the
source speaks, and real faults on real sockets.
"""

import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from lorax_serve.server.sources.retries import Retries

QUICK = Retries(first_bound=0.001, longest_wait=0.1)


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@dataclass
class UnrulyBucket:
    """`faults` are used up from the front, one by each request of their kind: list, head or get."""

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list["Fault"]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # kind and path
    ranges: list[str | None] = field(default_factory=list)  # of each get
    conditions: list[str | None] = field(default_factory=list)  # the If-Match of each get
    num_connections: int = 0
    released: threading.Event = field(default_factory=threading.Event)  # ends every stall
    url: str = ""

    def begin(self, objects: dict[str, bytes]) -> None:
        """As new, with these objects."""
        self.objects, self.faults, self.requests, self.ranges = objects, {}, [], []
        self.conditions = []
        self.num_connections = 0
        self.released = threading.Event()

    def count(self, kind: str) -> int:
        return sum(k == kind for k, _ in self.requests)


@contextmanager
def unruly_bucket(bucket: UnrulyBucket) -> Iterator[UnrulyBucket]:
    class Server(ThreadingHTTPServer):
        def get_request(self) -> Any:
            connection = super().get_request()
            bucket.num_connections += 1
            return connection

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is nothing unusual here."""

    class Answer(_Answer):
        served = bucket

    server = Server(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield bucket
    finally:
        bucket.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0  # seconds that an idle connection is kept
    served: UnrulyBucket

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        _, name, key = (*unquote(parts.path).split("/", 2), "")[:3]
        kind = "head" if self.command == "HEAD" else "get" if key else "list"
        self.served.requests.append((kind, f"{name}/{key}"))
        if kind == "get":
            self.served.ranges.append(self.headers.get("Range"))
            self.served.conditions.append(self.headers.get("If-Match"))
        faults = self.served.faults.get(kind)
        if faults:
            faults.pop(0)(self, self.served.objects.get(key, b""))
        elif kind == "list":
            self.send_listing(parse_qs(parts.query)["prefix"][0])
        elif key not in self.served.objects:
            self.send_body(404, b"")
        else:
            self.send_object(self.served.objects[key])

    do_HEAD = do_GET

    def send_listing(self, prefix: str, extra_keys: tuple[str, ...] = ()) -> None:
        keys = [key for key in self.served.objects if key.startswith(prefix)]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>1</Size>"
            f"<ETag>{etag_of(self.served.objects.get(key, b''))}</ETag></Contents>"
            for key in (*sorted(keys), *extra_keys)
        )
        self.send_body(
            200, f"<ListBucketResult><Name>x</Name>{entries}</ListBucketResult>".encode()
        )

    def send_object(self, content: bytes) -> None:
        etag = {"ETag": etag_of(content)}
        asked = self.headers.get("Range")
        if asked is None:
            self.send_body(200, content, etag)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        part = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_body(206, content[start:], {**etag, "Content-Range": part})

    def send_body(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.start(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def reset(self) -> None:
        """End the connection with an RST, as a crashed peer or a firewall does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


Fault = Callable[[_Answer, bytes], None]


def status(code: int, error: str = "", **headers: str) -> Fault:
    def fault(answer: _Answer, content: bytes) -> None:
        body = f"<Error><Code>{error}</Code><Message>secret-canary</Message></Error>".encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer.send_body(code, body, named)

    return fault


def partial(fraction: float, then: Callable[[_Answer], None]) -> Fault:
    """Announce all of what was asked for, send some of it, then do something else."""

    def fault(answer: _Answer, content: bytes) -> None:
        asked = answer.headers.get("Range")
        start = int(asked[6:-1]) if asked else 0
        rest = content[start:]
        headers = {"ETag": etag_of(content), "Content-Length": str(len(rest))}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        answer.start(206 if asked else 200, headers)
        answer.wfile.write(rest[: int(len(rest) * fraction)])
        answer.wfile.flush()
        then(answer)

    return fault


def reset(answer: _Answer) -> None:
    answer.reset()


def hang_up(answer: _Answer) -> None:
    answer.close_connection = True


def stall(answer: _Answer) -> None:
    answer.served.released.wait(30)
    answer.close_connection = True


def silence(answer: _Answer, content: bytes) -> None:
    """Not even a status line."""
    stall(answer)


def trickle(answer: _Answer) -> None:
    """A byte now and then, never silent for long enough to be a stall."""
    answer.close_connection = True
    while not answer.served.released.wait(0.02):
        answer.wfile.write(b"x")
        answer.wfile.flush()


def whole(content: bytes, **headers: str) -> Fault:
    """Some other object, as if it were what was asked for."""

    def fault(answer: _Answer, asked: bytes) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer.send_body(200, content, {"ETag": etag_of(asked), **named})

    return fault
