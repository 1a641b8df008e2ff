"""Whose chat template a prompt is made with: the adapter's where the operator says so."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from fake_engine import FakeEngine, Tokens
from hub_stand_in import CONFIG, WEIGHTS, HubStandIn, Repository, serving_hub
from lorax_serve.ipc.types import FinishReason
from lorax_serve.server.app import build_app
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from lorax_serve.server.text.isolated_templates import IsolatedTemplates, TemplateLimits
from wire import MODEL_ID, make_service

OWN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ bos_token }}>"
PROMPT = "[user]hi<s>>"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ALICE = "hf_of_alice"


@dataclass
class Served:
    client: TestClient[web.Request, web.Application]
    engine: FakeEngine
    hub: HubStandIn

    async def chat(self, name: str, **more: object) -> tuple[int, str]:
        """Status, and the prompt that the engine got, or what the client was told."""
        self.engine.script = [Tokens([5], FinishReason.LENGTH)]
        body = {"model": name, "messages": MESSAGES, **more}
        reply = await self.client.post("/v1/chat/completions", json=body)
        if reply.status != 200:
            return reply.status, (await reply.json())["error"]["message"]
        return 200, await self.text(self.engine.requests[-1].prompt_token_ids)

    async def text(self, ids: list[int]) -> str:
        reply = await self.client.post("/detokenize", json={"tokens": ids})
        return str((await reply.json())["prompt"])

    async def tokenized(self, name: str, **headers: str) -> tuple[int, str]:
        body = {"model": name, "messages": MESSAGES}
        reply = await self.client.post("/tokenize", json=body, headers=headers)
        said = await reply.json()
        return reply.status, await self.text(said["tokens"]) if reply.ok else said["error"]


@asynccontextmanager
async def serving(
    wire_files: Path, folder: Path, *, allowed: bool = True, source: str = "local"
) -> AsyncIterator[Served]:
    if not (folder / "model").exists():
        shutil.copytree(wire_files, folder, dirs_exist_ok=True)
    hub, engine = HubStandIn(), FakeEngine()
    templates = IsolatedTemplates({"bos_token": "<s>"}, TemplateLimits(cpu_seconds=1))
    store = AdapterStore(folder / "store", Quota(max_bytes=2**30, free_share=0, free_bytes=0))
    async with serving_hub(hub):
        found = HubSource(hub.url, retries=Retries(first_bound=0.001), with_templates=allowed)
        remote = RemoteAdapters({"hub": found}, store, FetchLimits())
        service = make_service(folder, engine, remote=remote)
        service.resolver.default_source = source
        service = replace(service, adapter_templates=templates if allowed else None)
        async with TestClient(TestServer(build_app(service))) as client:
            yield Served(client, engine, hub)
        service.tokenizer.close()


@pytest.fixture
def alice(wire_files: Path, tmp_path: Path) -> Path:
    """The folder of an adapter of that name, among the server's files in `tmp_path`."""
    shutil.copytree(wire_files, tmp_path, dirs_exist_ok=True)
    return tmp_path / "adapters" / "alice"


async def test_the_adapters_own_template_counts(
    alice: Path, wire_files: Path, tmp_path: Path
) -> None:
    (alice / "chat_template.jinja").write_text(OWN)
    async with serving(wire_files, tmp_path) as served:
        _, of_base = await served.chat(MODEL_ID)
        assert await served.chat("alice") == (200, PROMPT)
        assert await served.tokenized("alice") == (200, PROMPT)
        assert await served.chat(MODEL_ID) == (200, of_base)
        assert await served.chat("team/ops") == (200, of_base)
        assert of_base != PROMPT
        # A replaced template counts at once, though the weights are the same.
        (alice / "chat_template.jinja").write_text("new")
        assert await served.chat("alice") == (200, "new")


async def test_without_the_operators_word_it_does_not(
    alice: Path, wire_files: Path, tmp_path: Path
) -> None:
    (alice / "chat_template.jinja").write_text(OWN)
    async with serving(wire_files, tmp_path, allowed=False) as served:
        assert await served.chat("alice") == await served.chat(MODEL_ID)
        assert await served.tokenized("alice") == await served.tokenized(MODEL_ID)
        assert await served.tokenized("nobody") == await served.tokenized(MODEL_ID)


@pytest.mark.parametrize(
    "value", [OWN, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": OWN}]]
)
async def test_a_template_in_the_tokenizers_configuration(
    alice: Path, wire_files: Path, tmp_path: Path, value: object
) -> None:
    config = {"chat_template": value, "bos_token": "<other>"}
    (alice / "tokenizer_config.json").write_bytes(msgspec.json.encode(config))
    async with serving(wire_files, tmp_path) as served:
        assert await served.chat("alice") == (200, PROMPT)
        (alice / "chat_template.jinja").write_text("a file of its own goes before it")
        assert await served.chat("alice") == (200, "a file of its own goes before it")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", b"{% for %}"),
        ("chat_template.jinja", b"\xff"),
        ("chat_template.jinja", b"x" * (2**18 + 1)),
        ("chat_template.jinja", ENDLESS.encode()),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"chat_template": 5}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "x", "template": "y"}]}'),
    ],
)
async def test_a_bad_template_fails_its_own_chats_alone(
    alice: Path, wire_files: Path, tmp_path: Path, file: str, content: bytes
) -> None:
    (alice / file).write_bytes(content)
    (tmp_path / "adapters" / "team/ops" / "chat_template.jinja").write_text(OWN)
    async with serving(wire_files, tmp_path) as served:
        status, message = await served.chat("alice")
        assert (status, str(tmp_path) in message) == (400, False)
        assert (await served.tokenized("alice"))[0] == 422
        assert await served.chat("team/ops") == (200, PROMPT)


async def test_tools_are_shown_where_the_adapters_template_shows_them(
    alice: Path, wire_files: Path, tmp_path: Path
) -> None:
    (alice / "chat_template.jinja").write_text("{{ tools[0].function.name }}")
    (tmp_path / "adapters" / "team/ops" / "chat_template.jinja").write_text(OWN)
    async with serving(wire_files, tmp_path) as served:
        assert await served.chat("alice", tools=[TOOL]) == (200, "f")
        status, message = await served.chat("team/ops", tools=[TOOL])
        assert status == 400
        assert "shows no tools" in message


async def test_an_unknown_adapter_and_an_unlisted_variable(
    alice: Path, wire_files: Path, tmp_path: Path
) -> None:
    (alice / "chat_template.jinja").write_text(OWN)
    async with serving(wire_files, tmp_path) as served:
        assert (await served.chat("nobody"))[0] == 404
        status, message = await served.chat("alice", chat_template_kwargs={"x": 1})
        assert (status, "chat_template_kwargs.x" in message) == (400, True)


def repository(template: str | None, tokens: set[str] | None = None) -> Repository:
    files = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}
    if template is not None:
        files["chat_template.jinja"] = template.encode()
    return Repository([files], tokens)


async def test_a_fetched_template_is_its_owners(wire_files: Path, tmp_path: Path) -> None:
    async with serving(wire_files, tmp_path, source="hub") as served:
        served.hub.repositories["org/closed"] = repository(OWN, {ALICE})
        assert await served.chat("org/closed", api_token=ALICE) == (200, PROMPT)
        assert await served.tokenized("org/closed", **{"X-Adapter-Token": ALICE}) == (200, PROMPT)
        for token in (None, "hf_of_bob"):
            status, message = await served.chat("org/closed", api_token=token)
            assert (status, "does not exist" in message) == (404, True)
        assert (await served.tokenized("org/closed"))[0] == 424


async def test_equal_weights_with_other_templates_are_two_adapters(
    wire_files: Path, tmp_path: Path
) -> None:
    async with serving(wire_files, tmp_path, source="hub") as served:
        for name, template in (("org/a", "a"), ("org/b", "b"), ("org/c", None)):
            served.hub.repositories[name] = repository(template)
        assert await served.chat("org/a") == (200, "a")
        assert await served.chat("org/b") == (200, "b")
        assert await served.chat("org/c") == await served.chat(MODEL_ID)
        revisions = [each.adapter.revision for each in served.engine.requests if each.adapter]
        assert len(set(revisions)) == 3


async def test_an_adapter_fetched_before_the_option_was_on(
    wire_files: Path, tmp_path: Path
) -> None:
    async with serving(wire_files, tmp_path, allowed=False, source="hub") as served:
        served.hub.repositories["org/a"] = repository(OWN)
        of_base = await served.chat("org/a")
        assert not served.hub.paths("chat_template.jinja")
    for _ in range(2):
        async with serving(wire_files, tmp_path, source="hub") as served:
            served.hub.repositories["org/a"] = repository(OWN)
            assert await served.chat("org/a") == (200, PROMPT)
    assert not served.hub.paths("chat_template.jinja")  # it was kept
    async with serving(wire_files, tmp_path, allowed=False, source="hub") as served:
        served.hub.repositories["org/a"] = repository(OWN)
        assert await served.chat("org/a") == of_base


async def test_a_template_too_large_is_refused_before_it_is_fetched(
    wire_files: Path, tmp_path: Path
) -> None:
    async with serving(wire_files, tmp_path, source="hub") as served:
        served.hub.repositories["org/a"] = repository("x" * (2**18 + 1))
        status, message = await served.chat("org/a")
        assert (status, "chat_template.jinja is larger" in message) == (422, True)
        assert not served.hub.paths("resolve")
