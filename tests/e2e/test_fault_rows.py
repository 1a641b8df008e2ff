"""Faults 15 to 18 of docs/faults.md on the real server: damaged, not finite, and unfitting adapters
of a hub, and a folder in somebody's hands; and 23, where the disk is the log's. `-k row_16` selects
those of a row.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bad_adapters import BAD_ADAPTERS, MAX_RANK, BadAdapter
from hub_stand_in import HubStandIn, Repository, hub_in_thread
from live_server import LiveServer
from peft_adapters import CONFIG_NAME, WEIGHTS_NAME, build_adapter, edit_tensors
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

GOOD = "org/good"
DAMAGED = ("truncated header", "truncated body", "extra bytes", "html", "lfs pointer", "empty")
NOT_FINITE = ("nan", "infinity")
UNFITTING = (
    *("wrong base width", "wrong base output", "A without B", "B without A", "unknown module"),
    *("rank over the maximum", "config rank differs", "pattern rank differs"),
)
BY_NAME = {bad.name: bad for bad in BAD_ADAPTERS}


@dataclass(frozen=True)
class Site:
    server: LiveServer
    hub: HubStandIn
    root: Path

    def complete(self, model: str, source: str = "hub") -> tuple[int, Any]:
        body = {"model": model, "adapter_source": source, "prompt": "abc", "max_tokens": 8}
        return self.server.post("/v1/completions", {**body, "temperature": 0})

    def base_text(self) -> str:
        body = {"inputs": "abc", "parameters": {"max_new_tokens": 8}}
        status, reply = self.server.post("/generate", body)
        assert status == 200, reply
        return str(reply["generated_text"])

    def text(self, model: str) -> str:
        status, reply = self.complete(model)
        assert status == 200, reply
        return str(reply["choices"][0]["text"])

    def error(self, model: str) -> dict[str, Any]:
        status, reply = self.complete(model)
        assert status == 422, reply
        return dict(reply["error"])

    def spoiled(self, bad: BadAdapter) -> str:
        """Publishes the good adapter, spoiled, under a name of its own."""
        name = bad.name.replace(" ", "-")
        folder = self.root / name
        shutil.copytree(self.root / "good", folder)
        bad.spoil(folder)
        self.hub.repositories[f"org/{name}"] = Repository([content(folder)])
        return f"org/{name}"

    def num_fetched(self, model: str) -> int:
        return len([seen for seen in self.hub.paths(WEIGHTS_NAME) if model in seen.path]) // 2


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CONFIG_NAME, WEIGHTS_NAME)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("fault-rows")
    base = build_tiny_model("llama", root / "model")
    write_byte_level(root / "model", vocab_size=300)
    build_adapter(root / "good", base, targets=["q_proj", "v_proj"])
    repositories = {GOOD: Repository([content(root / "good")])}
    options = ("--model-id", root / "model", "--adapter-cache-dir", root / "kept")
    with hub_in_thread(lambda: HubStandIn(repositories)) as hub:
        more = ("--hub-endpoint", hub.url, "--num-threads", "1")
        (root / "local").mkdir()
        more = (*more, "--adapter-dir", root / "local")
        limits = ("--max-adapter-rank", str(MAX_RANK))
        with LiveServer(*options, *more, *limits, log=root / "log") as server:
            yield Site(server, hub, root)
    assert "Traceback" not in (root / "log").read_text()


@pytest.fixture(autouse=True)
def others_are_unaffected(site: Site) -> Iterator[None]:
    before = site.base_text(), site.text(GOOD)
    assert before[0] != before[1]
    engine_pid = site.server.engine_pid
    yield
    assert (site.base_text(), site.text(GOOD)) == before
    assert site.server.engine_pid == engine_pid


@pytest.mark.parametrize("kind", DAMAGED, ids=lambda kind: f"row_15-{kind}")
def test_fault_15_damaged_is_said_and_fetched_again_once(site: Site, kind: str) -> None:
    model = site.spoiled(BY_NAME[kind])
    for num_fetched in (1, 2, 2):
        error = site.error(model)
        assert error["code"] == "adapter_corrupt"
        assert WEIGHTS_NAME in error["message"] and BY_NAME[kind].says in error["message"]
        assert site.num_fetched(model) == num_fetched


@pytest.mark.parametrize("kind", NOT_FINITE, ids=lambda kind: f"row_16-{kind}")
def test_fault_16_not_finite_is_said_and_not_fetched_again(site: Site, kind: str) -> None:
    model = site.spoiled(BY_NAME[kind])
    for _ in range(2):
        assert site.error(model)["code"] == "adapter_not_finite"
    assert site.num_fetched(model) == 1


def test_fault_16_a_scale_that_overflows_row_16(site: Site) -> None:
    def huge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: torch.full_like(tensor, 3e38) for name, tensor in tensors.items()}

    bad = BadAdapter("scale-overflow", lambda f: edit_tensors(f, huge), BY_NAME["nan"].code, "")
    error = site.error(site.spoiled(bad))
    assert error["code"] == "adapter_not_finite"


@pytest.mark.parametrize("kind", UNFITTING, ids=lambda kind: f"row_17-{kind}")
def test_fault_17_what_does_not_fit_is_said_and_not_fetched_again(site: Site, kind: str) -> None:
    model = site.spoiled(BY_NAME[kind])
    for _ in range(2):
        error = site.error(model)
        assert error["code"] == BY_NAME[kind].code.value
        assert BY_NAME[kind].says in error["message"]
    assert site.num_fetched(model) == 1


def test_fault_17_at_most_five_offenders_are_listed_row_17(site: Site) -> None:
    def more(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        unknown = {f"unknown.{letter}.weight": torch.zeros(2) for letter in "abcdefghi"}
        return tensors | unknown

    code = BY_NAME["dora"].code
    error = site.error(site.spoiled(BadAdapter("nine", lambda f: edit_tensors(f, more), code, "")))
    assert error["code"] == code.value
    num_shown = error["message"].count("unknown.")
    assert 3 <= num_shown <= 5
    assert error["message"].endswith(f"; and {9 - num_shown} more.")


def test_fault_23_a_full_disk_under_the_log_changes_no_answer_row_23(site: Site) -> None:
    """What loads, what is refused and what does not exist is all logged, or would be."""
    shutil.copytree(site.root / "good", site.root / "local" / "good")
    shutil.copytree(site.root / "good", site.root / "local" / "bad")
    BY_NAME["nan"].spoil(site.root / "local" / "bad")
    options = ("--model-id", site.root / "model", "--adapter-dir", site.root / "local")
    more = ("--adapter-cache-dir", site.root / "unlogged", "--hub-endpoint", site.hub.url)
    with LiveServer(*options, *more, "--num-threads", "1", log=Path("/dev/full")) as server:
        quiet = Site(server, site.hub, site.root)
        assert quiet.base_text() == site.base_text()
        assert quiet.text(GOOD) == site.text(GOOD)
        for name, status in (("good", 200), ("bad", 422), ("absent", 404)):
            body = {"model": name, "prompt": "abc", "max_tokens": 8}
            assert server.post("/v1/completions", body)[0] == status
        server.interrupt()
        assert server.process.wait(timeout=30) == 0


def test_fault_18_truncated_and_restored_while_it_is_loaded_row_18(site: Site) -> None:
    """A folder of this machine, again and again: each request ends, right or with an error that
    says so, and the engine, which maps no file, outlives it.
    """
    folder = site.root / "local" / "moving"
    shutil.copytree(site.root / "good", folder)
    weights = folder / WEIGHTS_NAME
    whole, right = weights.read_bytes(), site.text(GOOD)
    ended = threading.Event()

    def tamper() -> None:
        while not ended.wait(0.002):
            os.truncate(weights, len(whole) // 2)
            with weights.open("r+b") as file:
                file.write(whole)

    tampering = threading.Thread(target=tamper)
    tampering.start()
    try:
        seen = [site.complete("moving", "local") for _ in range(25)]
    finally:
        ended.set()
        tampering.join()
    for status, reply in seen:
        assert status in (200, 422, 503), reply
        if status == 200:
            assert reply["choices"][0]["text"] == right
    status, reply = site.complete("moving", "local")
    assert (status, reply["choices"][0]["text"]) == (200, right)
