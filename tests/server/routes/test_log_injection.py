"""log_injection: what clients put into ids, revisions and headers, as standard error shows it."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from fake_engine import FakeEngine
from hub_stand_in import HubStandIn, adapter_repository, serving_hub
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.app import build_app
from lorax_serve.server.http_server import serving
from lorax_serve.server.listening import bound_sockets
from lorax_serve.server.logging import configure_logging
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.secret import Secret
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from wire import make_service

KEY = "admin-key-of-the-operator"
NAMES = [
    "org/x\n12:00:00 [error    ] FORGED",
    'org/x\r\n{"event": "FORGED", "level": "error"}',
    "org/\x1b[2J\x1b[31mFORGED",
    "org/\x9b31mFORGED\x85\u2028\u202e\x7f\x00",
    "org/%s%n%(event)sFORGED",
]
LINE = re.compile(r"\d\d:\d\d:\d\d \[(debug|info|warning|error) +\] \S+.*")


@pytest.fixture(params=[True, False], ids=["json", "text"])
def as_json(request: pytest.FixtureRequest) -> Iterator[bool]:
    """How `configured` logs; undone afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield request.param
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


class Door:
    """A server on a socket, and an engine that says in its failure what it was asked for."""

    def __init__(self, address: tuple[str, int], engine: FakeEngine) -> None:
        self._address = address
        self._engine = engine

    async def send(self, target: bytes, body: object, *headers: bytes) -> int:
        """The status. Headers are sent as they are."""
        content = json.dumps(body).encode()
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json" % target
        head = b"\r\n".join((head, *headers, b"Content-Length: %d" % len(content)))
        reader, writer = await asyncio.open_connection(*self._address)
        writer.write(head + b"\r\n\r\n" + content)
        async with asyncio.timeout(2):
            status = int((await reader.readuntil(b"\r\n")).split()[1])
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return status

    async def crash(self, name: str) -> int:
        self._engine.script = [RuntimeError(f"no such thing: {name}")]
        return await self.send(b"/v1/completions", {"model": "alice", "prompt": name})


@pytest_asyncio.fixture
async def door(wire_files: Path, tmp_path: Path) -> AsyncIterator[Door]:
    hub, engine = HubStandIn({"org/open": adapter_repository()}), FakeEngine()
    store = AdapterStore(tmp_path, Quota(max_bytes=2**30, free_share=0, free_bytes=0))
    async with serving_hub(hub):
        source = HubSource(hub.url, retries=Retries(first_bound=0.001))
        remote = RemoteAdapters({"hub": source}, store, FetchLimits())
        service = make_service(wire_files, engine, remote=remote, admin_key=AdminKey(Secret(KEY)))
        with bound_sockets("127.0.0.1", 0) as sockets:
            async with serving(build_app(service), sockets):
                yield Door(sockets[0].getsockname(), engine)
        service.tokenizer.close()


def configured(as_json: bool) -> None:
    """In the test itself: by then standard error is what `capsys` reads."""
    configure_logging("debug", json=as_json, colors=False)


def check(text: str, as_json: bool) -> int:
    """How many lines of ours there are; nothing else may be there but their tracebacks."""
    num_lines = 0
    for line in text.removesuffix("\n").split("\n") if text else ():
        assert line.isprintable(), repr(line)
        if as_json:
            said = json.loads(line)
            assert "FORGED" not in said["event"] and said["level"] != "critical"
        elif line.startswith("    "):
            continue
        else:
            assert LINE.fullmatch(line), line
            assert "FORGED" not in line
        num_lines += 1
    return num_lines


@pytest.mark.parametrize("name", NAMES)
async def test_log_injection_by_bodies(
    door: Door, as_json: bool, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(as_json)
    key = b"Authorization: Bearer " + KEY.encode()
    for field, more in [
        ("model", {}),
        ("model", {"adapter_source": "hub"}),
        ("adapter_source", {"model": "org/open"}),
        ("api_token", {"model": "org/absent", "adapter_source": "hub"}),
    ]:
        body = {"prompt": "x", **more, field: name}
        assert await door.send(b"/v1/completions", body) in (400, 404, 422)
    revision = {"model": f"org/open@{name}", "prompt": "x", "adapter_source": "hub"}
    assert await door.send(b"/v1/completions", revision) == 400
    for body in ({"lora_name": name, "lora_path": "alice"}, {"lora_name": "x", "lora_path": name}):
        assert await door.send(b"/v1/load_lora_adapter", body, key) in (400, 404)
    check(capsys.readouterr().err, as_json)


@pytest.mark.parametrize("name", NAMES)
async def test_log_injection_by_an_exceptions_text(
    door: Door, as_json: bool, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(as_json)
    assert await door.crash(name) == 500
    text = capsys.readouterr().err
    assert "no such thing" in text, "it was logged"
    assert check(text, as_json) == 1


@pytest.mark.parametrize("value", [name.replace("\r\n", "\n").encode() for name in NAMES])
async def test_log_injection_by_headers(
    door: Door, as_json: bool, value: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(as_json)
    body = {"model": "org/absent", "prompt": "x", "adapter_source": "hub"}
    for header in (b"X-Request-ID", b"X-Adapter-Token", b"Authorization", b"X-Unknown", b"Host"):
        line = header + b": " + value
        assert await door.send(b"/v1/completions", body, line) in (400, 404)
    for crashing in (b"X-Request-ID: " + value, b"X-Request-ID: %s\x1b"):
        await door.send(b"/v1/models/" + value, body, crashing)
    check(capsys.readouterr().err, as_json)
