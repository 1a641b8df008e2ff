"""Tenants on the real server: whose prompt blocks are found again, and what is shown to others.

Times are not asserted: `cached_tokens` says how much of a prompt was not computed, which is all
that the time to the first token could tell.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hub_stand_in import HubStandIn, Repository, hub_in_thread
from live_server import LiveServer
from peft_adapters import CONFIG_NAME, WEIGHTS_NAME, build_adapter
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

ALICE, BOB = "hf_canary_of_alice", "hf_canary_of_bob"
ADMIN_KEY = "canary-key-of-the-operator"
OPERATORS = {
    "LORAX_ADMIN_KEY": ADMIN_KEY,
    "LORAX_HUB_TOKEN": "hf_canary_of_the_operator",
    "LORAX_S3_ACCESS_KEY_ID": "canary-of-the-operators-bucket",
    "LORAX_S3_SECRET_ACCESS_KEY": "canary-secret-of-the-operators-bucket",
}
PROMPT = "canary of a prompt, long enough to fill some blocks of the cache: "


@dataclass(frozen=True)
class Site:
    server: LiveServer
    log: Path

    def ask(self, prompt: str, token: str | None = None, **more: object) -> tuple[int, Any]:
        body = {"model": "org/shared", "adapter_source": "hub", "prompt": prompt, "max_tokens": 4}
        return self.server.post("/v1/completions", body | {"api_token": token} | more)

    def num_cached(self, prompt: str, token: str | None = None, **more: object) -> int:
        status, reply = self.ask(prompt, token, **more)
        assert status == 200, reply
        return int(reply["usage"]["prompt_tokens_details"]["cached_tokens"])


@contextmanager
def serving(root: Path, *flags: str) -> Iterator[Site]:
    """A server and a hub with an adapter of Alice and Bob's, and one of Bob's alone."""
    base = build_tiny_model("llama", root / "model")
    write_byte_level(root / "model", vocab_size=300)
    repositories = {}
    for seed, (name, tokens) in enumerate((("shared", {ALICE, BOB}), ("bobs", {BOB}))):
        build_adapter(root / name, base, targets=["q_proj"], seed=seed)
        files = {each: (root / name / each).read_bytes() for each in (CONFIG_NAME, WEIGHTS_NAME)}
        repositories[f"org/{name}"] = Repository([files], tokens)
    options = ("--model-id", root / "model", "--adapter-cache-dir", root / "kept", *flags)
    options += ("--log-level", "debug")  # whatever there is to say
    with hub_in_thread(lambda: HubStandIn(repositories)) as hub:
        more = ("--hub-endpoint", hub.url, "--num-threads", "1")
        with pytest.MonkeyPatch.context() as patch:
            for name, secret in OPERATORS.items():
                patch.setenv(name, secret)
            server = LiveServer(*options, *more, log=root / "log")
        with server:
            yield Site(server, root / "log")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("tenants")) as each:
        yield each


def test_prefix_same_tenant(site: Site) -> None:
    prompt = "same tenant " + PROMPT
    assert site.num_cached(prompt, ALICE) == 0
    assert 0 < site.num_cached(prompt, ALICE) < len(prompt)


def test_prefix_isolation(site: Site) -> None:
    prompt = "isolation " + PROMPT
    assert site.num_cached(prompt, ALICE) == 0
    assert site.num_cached(prompt, BOB) == 0
    assert site.num_cached(prompt, ALICE) == site.num_cached(prompt, BOB) > 0


def test_cache_salt(site: Site) -> None:
    """It divides one tenant's prompts, and joins nobody's to another's."""
    prompt = "salt " + PROMPT
    assert site.num_cached(prompt, ALICE, cache_salt="x") == 0
    assert site.num_cached(prompt, ALICE, cache_salt="y") == 0
    assert site.num_cached(prompt, ALICE) == 0
    assert site.num_cached(prompt, BOB, cache_salt="x") == 0
    assert site.num_cached(prompt, ALICE, cache_salt="x") > 0


def test_the_operator_may_have_all_share_their_prefixes(tmp_path: Path) -> None:
    """But only with the same adapter's weights, and the same `cache_salt` where there is one."""
    with serving(tmp_path, "--prefix-cache-scope", "global") as site:
        assert site.num_cached(PROMPT, ALICE) == 0
        assert site.num_cached(PROMPT, BOB, model="org/bobs") == 0
        assert site.num_cached(PROMPT, BOB, cache_salt="x") == 0
        assert site.num_cached(PROMPT, BOB) == site.num_cached(PROMPT, ALICE) > 0
        assert site.num_cached(PROMPT, ALICE, cache_salt="x") > 0
        assert site.ask(PROMPT, ALICE, model="org/bobs")[0] == 404


def test_timing_oracle_a_guess_of_anothers_prompt_is_computed_whole(site: Site) -> None:
    """Bob's reply to Alice's prompt is that to a prompt nobody ever sent: in all but the ids."""
    known, unknown = "1 " + PROMPT, "2 " + PROMPT
    site.num_cached(known, ALICE)
    replies = [site.ask(prompt, BOB)[1] for prompt in (known, unknown)]
    details = [reply["usage"] for reply in replies]
    assert details[0] == details[1]
    assert details[0]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert replies[0].keys() == replies[1].keys()


def test_models_list_scoped(site: Site) -> None:
    """An adapter is listed for whoever proved a right to it, and is not there for all others."""

    def listed(token: str | None) -> list[str]:
        headers = {} if token is None else {"X_Adapter_Token": token}
        status, body = site.server.get("/v1/models", **headers)
        assert status == 200
        return [model["id"] for model in json.loads(body)["data"]]

    def one(token: str | None) -> tuple[int, bytes]:
        headers = {} if token is None else {"X_Adapter_Token": token}
        return site.server.get("/v1/models/org/shared", **headers)

    assert site.ask("models", ALICE)[0] == 200
    assert "org/shared" in listed(ALICE)
    status, body = one(ALICE)
    assert status == 200 and json.loads(body)["id"] == "org/shared"
    for other in (None, "hf_canary_of_nobody"):
        assert "org/shared" not in listed(other)
        assert one(other)[0] == 404


def test_grep_the_world(site: Site) -> None:
    """Prompts, tokens and the operator's secrets, of requests that went well and badly, are shown
    to nobody.
    """
    prompt = "world " + PROMPT
    status, answer = site.ask(prompt, ALICE)
    assert status == 200
    assert site.server.get("/adapters", Authorization="Bearer canary-guess")[0] == 403
    bodies = [
        site.ask(prompt, "hf_canary_of_nobody"),
        site.ask(prompt, ALICE, max_tokens=-1),
        site.ask(prompt, ALICE, response_format={"type": prompt}),
        site.ask(prompt * 1000, ALICE),
    ]
    assert all(status >= 400 for status, _ in bodies), bodies
    shown = {"answer": repr(answer), "errors": repr(bodies), "log": site.log.read_text()}
    for path in ("/metrics", "/adapters", "/v1/models", "/ready"):
        shown[path] = site.server.get(path)[1].decode()
    status, body = site.server.get("/adapters", Authorization=f"Bearer {ADMIN_KEY}")
    assert status == 200 and b"org/shared" in body, "an operator is told what is here"
    shown["/adapters, asked by the operator"] = body.decode()
    for pid in site.server.group():
        # Whoever started the server has given it its secrets, and no process that it starts.
        given = () if pid == site.server.process.pid else ("environ",)
        for file in ("cmdline", "comm", *given):
            shown[f"{file} of {pid}"] = Path(f"/proc/{pid}/{file}").read_bytes().decode()
    assert "lorax_adapter_requests_total" in shown["/metrics"]
    assert shown["log"]
    for where, text in shown.items():
        assert "canary" not in text.lower(), where
    assert '"event": "request"' in shown["log"]
    assert "org/shared" not in shown["/metrics"] + shown["/v1/models"] + shown["log"]
