"""The operator's routes over a fake engine: the key, names, pins, status."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from fake_engine import FakeEngine, Tokens
from lorax_serve.ipc.adapter_report import AdapterReport, AdapterState, TierUse
from lorax_serve.ipc.messages import AdapterAction
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.app import build_app
from lorax_serve.server.errors import ServeError
from lorax_serve.server.secret import Secret
from wire import ADAPTERS, MODEL_ID, make_service

KEY = "admin-key-of-the-operator"
ROUTES = [
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("GET", "/adapters"),
    ("POST", "/adapters/alice/pin"),
    ("POST", "/adapters/team/ops/unpin"),
    ("POST", "/adapters/alice/refresh"),
]
Client = TestClient[Any, Any]


class Desk:
    def __init__(self, client: Client, engine: FakeEngine) -> None:
        self.client = client
        self.engine = engine

    async def post(self, path: str, **body: object) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = await self.client.post(path, json=body, headers=headers)
        text = await reply.text()
        return reply.status, await reply.json() if reply.content_type.endswith("json") else text

    async def load(self, name: str, path: str, **more: object) -> tuple[int, Any]:
        return await self.post("/v1/load_lora_adapter", lora_name=name, lora_path=path, **more)

    async def unload(self, name: str) -> tuple[int, Any]:
        return await self.post("/v1/unload_lora_adapter", lora_name=name)

    async def status(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = await self.client.get("/adapters", headers=headers)
        assert reply.status == 200, await reply.text()
        return {each["name"]: each for each in (await reply.json())["data"]}

    async def models(self) -> list[str]:
        return [m["id"] for m in (await (await self.client.get("/v1/models")).json())["data"]]

    async def say(self, model: str) -> tuple[int, Any]:
        self.engine.script = [Tokens([5], FinishReason.LENGTH)]
        reply = await self.client.post("/v1/completions", json={"model": model, "prompt": "x"})
        return reply.status, await reply.json()

    @property
    def pins(self) -> set[str]:
        """Names the engine keeps pinned, as it was told."""
        pinned = set()
        for action, ref in self.engine.commands:
            if action is AdapterAction.PIN:
                pinned.add(ref)
            elif action is AdapterAction.UNPIN:
                pinned.discard(ref)
        return {ref.name for ref in pinned if ref is not None}


async def opened(files: Path, key: str | None) -> AsyncIterator[Desk]:
    engine = FakeEngine()
    service = make_service(files, engine, admin_key=key and AdminKey(Secret(key)))
    async with TestClient(TestServer(build_app(service))) as client:
        yield Desk(client, engine)
    service.tokenizer.close()


@pytest_asyncio.fixture
async def desk(wire_files: Path) -> AsyncIterator[Desk]:
    async for made in opened(wire_files, KEY):
        yield made


@pytest_asyncio.fixture
async def keyless(wire_files: Path) -> AsyncIterator[Desk]:
    async for made in opened(wire_files, None):
        yield made


# -- the key


async def test_nulls_are_absent_fields(desk: Desk) -> None:
    nulls = dict.fromkeys(("source", "api_token", "pin", "load_inplace"))
    status, text = await desk.load("named", "alice", **nulls)
    assert status == 200, text
    assert desk.pins == set()


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_configured_there_is_nothing(
    keyless: Desk, method: str, path: str
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    there = await keyless.client.request(method, path, headers=headers, json={})
    nowhere = await keyless.client.request(method, "/v1/nothing_here", json={})
    assert there.status == nowhere.status == 404
    assert "nothing at this address" in await there.text()


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", f"Basic {KEY}", KEY, "Bearer wrong", f"Bearer {KEY}x",
     f"Bearer {KEY[:-1]}", f"Bearer {KEY.upper()}"],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_wrong_or_missing_key_is_refused_unread(
    desk: Desk, method: str, path: str, given: str | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    reply = await desk.client.request(method, path, headers=headers, data=b"{ no JSON")
    text = await reply.text()
    assert reply.status == 403
    assert KEY not in text and "alice" not in text
    assert desk.engine.commands == []


async def test_the_key_opens_no_other_route_and_is_no_adapter_token(desk: Desk) -> None:
    assert "forbidden" not in str(await desk.say("alice"))
    assert (await desk.client.get("/v1/models")).status == 200


# -- names


async def test_a_loaded_name_works_until_it_is_unloaded(desk: Desk) -> None:
    assert (await desk.say("support"))[0] == 404
    status, text = await desk.load("support", "team/ops")
    assert (status, text) == (200, "Success: LoRA adapter 'support' added successfully.")
    [(action, ref)] = desk.engine.commands
    assert action is AdapterAction.LOAD
    assert ref is not None and (ref.name, Path(ref.path).name) == ("support", "ops")
    status, answer = await desk.say("support")
    assert (status, answer["model"]) == (200, "support")
    adapter = desk.engine.requests[-1].adapter
    assert adapter == ref
    assert "support" in await desk.models()
    model = await (await desk.client.get("/v1/models/support")).json()
    assert (model["root"], model["parent"]) == ("local:team/ops", MODEL_ID)
    assert await desk.unload("support") == (
        200,
        "Success: LoRA adapter 'support' removed successfully.",
    )
    assert (await desk.say("support"))[0] == 404
    assert (await desk.say("team/ops"))[0] == 200
    assert (await desk.unload("support"))[0] == 404


async def test_a_path_below_the_adapter_directory_is_its_name(desk: Desk, wire_files: Path) -> None:
    folder = (wire_files / "adapters").resolve()
    assert (await desk.load("a", f"{folder}/team/ops/"))[0] == 200
    status = await desk.status()
    assert status["a"]["alias_of"] == "local:team/ops"


@pytest.mark.parametrize(
    "path", ["/etc", "../adapters/alice", "alice/../alice", "no-such", "/", "team/%6fps", "a\x00b"]
)
async def test_no_other_path_is_loaded(desk: Desk, path: str) -> None:
    status, error = await desk.load("a", path)
    assert (status, error["error"]["param"]) == (404, "lora_path")
    is_absolute = path.startswith("/")
    assert ("--allow-absolute-adapters" in error["error"]["message"]) == is_absolute
    assert "--adapter-dir" in error["error"]["message"]
    assert desk.engine.commands == []
    assert "a" not in await desk.models()


@pytest.mark.parametrize(("key", "is_short"), [("x" * 15, True), ("x" * 16, False)])
def test_a_short_key_is_warned_of(key: str, is_short: bool) -> None:
    with capture_logs() as logs:
        AdminKey(Secret(key))
    assert [line["event"] for line in logs] == ["admin_key_short"] * is_short
    assert key not in str(logs)


async def test_other_sources_are_refused_by_name(desk: Desk) -> None:
    for body in ({"path": "x/y", "source": "ftp"}, {"path": "hf://org/x"}, {"path": "s3://b/x"}):
        status, error = await desk.load("a", body.pop("path"), **body)
        assert status == 400
        assert error["error"]["param"] == ("source" if body else "lora_path")


@pytest.mark.parametrize("name", [MODEL_ID, "alice", "team/ops"])
async def test_a_name_that_is_taken_is_refused(desk: Desk, name: str) -> None:
    for more in ({}, {"load_inplace": True}):
        status, error = await desk.load(name, "alice", **more)
        assert (status, error["error"]["code"]) == (400, "invalid_request")
        assert error["error"]["param"] == "lora_name"
    assert desk.engine.commands == []


@pytest.mark.parametrize(
    "name", ["", "x" * 129, "a b", 'a"b', "a\nb", "ünï", "-x", "a{b}", "a\\b", "\x1b[31m"]
)
async def test_a_name_is_plain(desk: Desk, name: str) -> None:
    assert (await desk.load(name, "alice"))[0] == 400


async def test_a_name_changes_its_meaning_only_when_asked_to(desk: Desk) -> None:
    await desk.load("a", "alice")
    assert (await desk.load("a", "team/ops"))[0] == 400
    assert (await desk.status())["a"]["alias_of"] == "local:alice"
    assert (await desk.load("a", "team/ops", load_inplace=True))[0] == 200
    assert (await desk.status())["a"]["alias_of"] == "local:team/ops"


async def test_what_the_engine_refuses_is_not_loaded_and_its_reason_is_told(desk: Desk) -> None:
    desk.engine.refusal = ServeError(ErrorCode.ADAPTER_INCOMPATIBLE, "It has DoRA.")
    for pin in (False, True):
        status, error = await desk.load("a", "alice", pin=pin)
        assert (status, error["error"]["message"]) == (422, "It has DoRA.")
    assert "a" not in await desk.models()
    assert desk.pins == set()
    assert not (await desk.status())["alice"]["pinned"]


@pytest.mark.parametrize(
    "body", [{}, {"lora_name": "a"}, {"lora_name": "a", "lora_path": "alice", "rank": 3},
             {"lora_name": 1, "lora_path": "alice"}, {"lora_name": "a", "lora_path": "x" * 5000}],
)  # fmt: skip
async def test_bodies_are_strict(desk: Desk, body: dict[str, object]) -> None:
    assert (await desk.post("/v1/load_lora_adapter", **body))[0] == 400


# -- pins, refresh, status


async def test_pin_and_unpin(desk: Desk) -> None:
    for _ in range(2):
        status, pinned = await desk.post("/adapters/team/ops/pin")
        assert (status, pinned["pinned"], pinned["source"]) == (200, True, "local")
    assert desk.pins == {"team/ops"}
    assert (await desk.status())["team/ops"]["pinned"]
    assert (await desk.post("/adapters/team/ops/unpin"))[1]["was_pinned"] is True
    assert (await desk.post("/adapters/team/ops/unpin"))[1]["was_pinned"] is False
    assert desk.pins == set()
    for change in ("pin", "refresh"):
        status, error = await desk.post(f"/adapters/no-such/{change}")
        assert (status, error["error"]["param"]) == (404, "name")
    status, error = await desk.post("/adapters/alice/pin", source="ftp")
    assert (status, error["error"]["param"]) == (400, "source")


async def test_unloading_a_pinned_name_unpins_it(desk: Desk) -> None:
    await desk.load("a", "alice", pin=True)
    assert desk.pins == {"a"}
    await desk.unload("a")
    assert desk.pins == set()


async def test_refresh_sees_new_files_and_moves_the_pin(desk: Desk, wire_files: Path) -> None:
    folder = wire_files / "adapters" / "moving"
    folder.mkdir()
    try:
        (folder / "adapter_config.json").write_text("{}")
        await desk.post("/adapters/moving/pin")
        assert (await desk.post("/adapters/moving/refresh"))[1]["changed"] is False
        (folder / "adapter_config.json").write_text('{"r": 1}')
        old = next(ref for _, ref in desk.engine.commands if ref is not None)
        assert (await desk.post("/adapters/moving/refresh"))[1]["changed"] is True
        (pin, new), (unpin, gone) = desk.engine.commands[-2:]
        assert (pin, unpin, gone) == (AdapterAction.PIN, AdapterAction.UNPIN, old)
        assert new is not None and new.revision != old.revision
    finally:
        (folder / "adapter_config.json").unlink()
        folder.rmdir()


async def test_status_joins_records_and_tiers(desk: Desk) -> None:
    await desk.load("a", "alice")
    await desk.say("a")
    ref = desk.engine.requests[-1].adapter
    assert ref is not None
    desk.engine.report = AdapterReport(
        [AdapterState("0123456789abcdef", (ref.revision,), 16, 100, 90, False, 2, 0.25, 1, 0)],
        TierUse(1000, 100),
        TierUse(2000, 90),
    )
    desk.engine.script = [ServeError(ErrorCode.ADAPTER_CORRUPT, "Broken.")]
    reply = await desk.client.post("/v1/completions", json={"model": "a", "prompt": "x"})
    assert reply.status == 422
    found = (await desk.status())["a"]
    assert 0 <= found.pop("last_use_seconds") < 60
    assert found == {
        "name": "a",
        "source": "local",
        "alias_of": "local:alice",
        "revision": ref.revision[:12],
        "digest": "0123456789ab",
        "tier": "device",
        "bytes": {"device": 100, "host": 90},
        "rank": 16,
        "pinned": False,
        "requests": 2,
        "requests_in_flight": 0,
        "loads": 2,
        "load_seconds": 0.25,
        "errors": {"adapter_corrupt": 1},
    }
    others = await desk.status()
    assert others["team/ops"]["tier"] == "disk"
    assert others["team/ops"]["last_use_seconds"] is None
    assert others["team/ops"]["digest"] is None


async def test_another_name_of_the_same_bytes_does_not_take_the_counters_over(desk: Desk) -> None:
    async def loads_shown(num_loads: int) -> set[str]:
        desk.engine.report = AdapterReport(
            [AdapterState("d", revisions, 16, 100, 90, False, num_loads, 0.25, 0, 0)],
            TierUse(1000, 100),
            TierUse(2000, 90),
        )
        await desk.status()
        text = await (await desk.client.get("/metrics")).text()
        return {line for line in text.splitlines() if line.startswith("lorax_adapter_loads_total")}

    assert (await desk.say("team/ops"))[0] == 200
    ref = desk.engine.requests[-1].adapter
    assert ref is not None
    revisions = (ref.revision,)
    assert await loads_shown(1) == {'lorax_adapter_loads_total{adapter="team/ops"} 1.0'}
    await desk.load("aaa", "team/ops")
    assert await loads_shown(2) == {'lorax_adapter_loads_total{adapter="team/ops"} 2.0'}


async def test_random_operations_leave_exactly_what_is_expected(desk: Desk) -> None:
    """Against a model of the rules that is three lines of sets."""
    chance = random.Random(7)
    names: dict[str, str] = {}
    pins: set[str] = set()
    for _ in range(300):
        name = chance.choice("abcdef")
        target = chance.choice(("alice", "team/ops"))
        match chance.randrange(4):
            case 0:
                pin, replaces = chance.random() < 0.5, chance.random() < 0.5
                status, _ = await desk.load(name, target, pin=pin, load_inplace=replaces)
                assert (status == 200) == (name not in names or replaces)
                if status == 200:
                    names[name] = target
                    pins = pins | {name} if pin else pins - {name}
            case 1:
                status, _ = await desk.unload(name)
                assert (status == 200) == (name in names)
                names.pop(name, None)
                pins.discard(name)
            case 2:
                status, _ = await desk.post(f"/adapters/{name}/pin")
                assert (status == 200) == (name in names)
                pins |= {name} & names.keys()
            case 3:
                assert (await desk.post(f"/adapters/{name}/unpin"))[0] == 200
                pins.discard(name)
    assert set(await desk.models()) == {MODEL_ID, *ADAPTERS, *names}
    status = await desk.status()
    assert set(status) == {*ADAPTERS, *names}
    assert {n: s["alias_of"] for n, s in status.items() if s["alias_of"]} == {
        name: f"local:{target}" for name, target in names.items()
    }
    assert {n for n, s in status.items() if s["pinned"]} == pins == desk.pins


# -- the log


async def test_what_an_operator_does_is_logged(desk: Desk) -> None:
    with capture_logs() as logs:
        await desk.load("named", "alice", pin=True)
        await desk.unload("named")
        await desk.post("/adapters/alice/pin")
        await desk.post("/adapters/alice/unpin")
        await desk.post("/adapters/alice/refresh")
        await desk.load("other", "nobody")  # fails, and so has done nothing
    events = [line["event"] for line in logs if line["log_level"] == "info"]
    assert events == [
        "adapter_named",
        "adapter_unnamed",
        "adapter_pinned",
        "adapter_unpinned",
        "adapter_refreshed",
    ]
    assert logs[0]["name"] == "named" and logs[0]["pinned"] is True
    assert all(len(line["revision"]) == 12 for line in logs if "revision" in line)


async def test_a_key_that_is_refused_is_logged_without_it(desk: Desk) -> None:
    with capture_logs() as logs:
        headers = {"Authorization": "Bearer guessed-key"}
        reply = await desk.client.post("/adapters/team/ops/pin", headers=headers)
    assert reply.status == 403
    (line,) = [line for line in logs if line["event"] == "admin_key_refused"]
    assert (line["method"], line["route"]) == ("POST", "/adapters/{name}/pin")
    assert "guessed" not in str(logs) and "ops" not in str(line)


async def test_an_adapter_that_is_refused_is_logged_once(desk: Desk) -> None:
    damaged = ServeError(ErrorCode.ADAPTER_CORRUPT, "It is damaged.")
    with capture_logs() as logs:
        for _ in range(3):
            desk.engine.failures = [lambda: damaged]
            assert (await desk.say("alice"))[0] == 422
    (line,) = [line for line in logs if line["event"] == "adapter_refused"]
    assert (line["adapter"], line["source"], line["code"]) == ("alice", "local", "adapter_corrupt")
    assert line["log_level"] == "warning"
