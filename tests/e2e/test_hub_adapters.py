"""Adapters of a hub through the real server: both processes, a tiny model, a hub on sockets."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hub_stand_in import Fault, HubStandIn, Repository, hub_in_thread
from live_server import LiveServer
from peft_adapters import build_adapter
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

ALICE = "hf_canary_of_alice"
OPERATOR = "hf_canary_of_the_operator"
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Site:
    server: LiveServer
    hub: HubStandIn
    root: Path

    def say(
        self, name: str | None, source: str = "hub", token: str | None = None
    ) -> tuple[int, Any]:
        parameters: dict[str, Any] = {"max_new_tokens": 8, "ignore_eos_token": True}
        if name is not None:
            parameters |= {"adapter_id": name, "adapter_source": source, "api_token": token}
        return self.server.post("/generate", {"inputs": "abc", "parameters": parameters})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub-adapters")
    base = build_tiny_model("llama", folder / "model")
    write_byte_level(folder / "model", vocab_size=300)
    for seed, name in enumerate(("open", "closed", "next")):
        build_adapter(folder / "adapters" / name, base, targets=["q_proj", "v_proj"], seed=seed)
    return folder


def repository(root: Path, name: str, tokens: set[str] | None = None) -> Repository:
    folder = root / "adapters" / name
    return Repository([{file: (folder / file).read_bytes() for file in FILES}], tokens)


@pytest.fixture(scope="module")
def site(root: Path) -> Iterator[Site]:
    repositories = {
        "org/open": repository(root, "open"),
        "org/slow": repository(root, "next"),
        "org/closed": repository(root, "closed", {ALICE}),
    }
    with (
        hub_in_thread(lambda: HubStandIn(repositories)) as hub,
        serving(root, hub, root / "log") as server,
    ):
        yield Site(server, hub, root)
        command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        shown = (root / "log").read_text() + command.decode()
    assert "Traceback" not in shown
    assert "hf_canary" not in shown


def serving(root: Path, hub: HubStandIn, log: Path) -> LiveServer:
    os.environ["HF_TOKEN"] = OPERATOR  # a machine has one, for other purposes
    try:
        return LiveServer(
            *("--model-id", root / "model", "--adapter-dir", root / "adapters"),
            *("--hub-endpoint", hub.url, "--adapter-cache-dir", root / "kept"),
            *("--num-threads", "1"),
            log=log,
        )
    finally:
        del os.environ["HF_TOKEN"]


def test_an_adapter_says_the_same_wherever_it_comes_from(site: Site) -> None:
    for name in ("open", "closed"):
        status, fetched = site.say(f"org/{name}", token=ALICE if name == "closed" else None)
        assert status == 200, fetched
        assert (200, fetched) == site.say(name, source="local")
        assert (200, fetched) != site.say(None)


def test_no_implicit_token(site: Site) -> None:
    assert site.say("org/open")[0] == 200
    assert f"Bearer {OPERATOR}" not in {seen.authorization for seen in site.hub.seen}


def test_private_then_anonymous(site: Site) -> None:
    assert site.say("org/closed", token=ALICE)[0] == 200
    status, refused = site.say("org/closed")
    assert status == 424
    assert refused["error"].replace("closed", "absent") == site.say("org/absent")[1]["error"]
    assert site.say("org/closed", token=ALICE)[0] == 200


def test_one_that_hangs_hinders_no_other(site: Site) -> None:
    site.hub.held.add("org/slow")
    answers: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(site.say("org/slow")))
    asking.start()
    try:
        while not site.hub.paths("/org/slow/"):
            time.sleep(0.01)
        assert site.say("org/open")[0] == 200
        assert answers == []
    finally:
        site.hub.held.clear()
        site.hub.release()
        asking.join()
    assert answers == [site.say("next", source="local")]


@pytest.mark.slow
def test_fault_22_after_a_restart_without_the_hub(site: Site) -> None:
    """Killed, not stopped: and the files are there, and the public one is served."""
    before = site.say("org/open")
    log = site.root / "second.log"
    with LiveServer(
        *("--model-id", site.root / "model", "--hub-endpoint", site.hub.url),
        *("--adapter-cache-dir", site.root / "second", "--num-threads", "1"),
        log=log,
    ) as first:
        second = Site(first, site.hub, site.root)
        assert second.say("org/open") == before
        assert second.say("org/closed", token=ALICE)[0] == 200
        for pid in first.group():
            os.kill(pid, 9)
    with LiveServer(
        *("--model-id", site.root / "model", "--hub-endpoint", site.hub.url),
        *("--adapter-cache-dir", site.root / "second", "--num-threads", "1"),
        log=log,
    ) as again:
        third = Site(again, site.hub, site.root)
        site.hub.faults.extend(Fault(500, on_info=True) for _ in range(20))
        assert third.say("org/open") == before
        assert third.say("org/closed", token=ALICE)[0] == 503
        site.hub.faults.clear()
