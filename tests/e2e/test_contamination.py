"""An adapter is replaced under its name while the real server is asked for it, again and again:
every answer is one version's from its first token to its last, prompt blocks found again included.
"""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from live_server import LiveServer
from peft_adapters import build_adapter
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

VERSIONS = ("old", "new")
PROMPTS = [f"{number} of some prompts that fill blocks of the cache: " for number in range(4)]
MAY_FAIL = {404, 424, 503}  # not there, or replaced, as it was asked for


@dataclass(frozen=True)
class Site:
    server: LiveServer
    versions: Path  # of the adapter, each in a folder of its name
    place: Path  # where the adapter is served from
    expected: dict[str, list[str]] = field(default_factory=dict)  # by version, of each prompt

    def ask(self, name: str, prompt: str) -> tuple[int, str]:
        body = {"model": name, "prompt": prompt, "max_tokens": 24, "temperature": 0}
        status, reply = self.server.post("/v1/completions", body)
        return status, reply["choices"][0]["text"] if status == 200 else ""

    def answers(self, name: str) -> list[str]:
        return [self.ask(name, prompt)[1] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("contamination")
    base = build_tiny_model("llama", root / "model")
    write_byte_level(root / "model", vocab_size=300)
    for seed, version in enumerate(VERSIONS):
        build_adapter(root / "versions" / version, base, seed=seed, magnitude=0.5)
        fresh = build_tiny_model("llama", root / "model")
        shutil.copytree(root / "versions" / version, root / "adapters" / version)
        base = fresh
    write_byte_level(root / "model", vocab_size=300)
    options = ("--model-id", root / "model", "--adapter-dir", root / "adapters")
    with LiveServer(*options, "--num-threads", "1", log=root / "log") as server:
        site = Site(server, root / "versions", root / "adapters" / "moving")
        site.expected.update({version: site.answers(version) for version in VERSIONS})
        yield site
        assert server.engine_pid
    assert "Traceback" not in (root / "log").read_text()


def test_contamination_every_answer_is_one_versions(site: Site) -> None:
    for one, other in zip(*site.expected.values(), strict=True):
        assert one and other and one != other
    answered = {version: threading.Event() for version in VERSIONS}
    outcomes: Counter[str] = Counter()
    strange: list[str] = []
    stop = threading.Event()

    def keep_asking(number: int) -> None:
        while not stop.is_set():
            index = number % len(PROMPTS)
            status, text = site.ask("moving", PROMPTS[index])
            versions = [v for v in VERSIONS if status == 200 and text == site.expected[v][index]]
            for version in versions:
                answered[version].set()
            outcomes[versions[0] if versions else str(status)] += 1
            if not versions and status not in MAY_FAIL:
                strange.append(f"{status}: {text}")
            number += 1

    clients = [threading.Thread(target=keep_asking, args=(number,)) for number in range(6)]
    for client in clients:
        client.start()
    try:
        for turn in range(12):
            version = VERSIONS[turn % 2]
            answered[version].clear()
            (site.versions / version).rename(site.place)
            assert answered[version].wait(60), outcomes
            site.place.rename(site.versions / version)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not strange, strange
    assert all(outcomes[version] >= 6 for version in VERSIONS), outcomes
