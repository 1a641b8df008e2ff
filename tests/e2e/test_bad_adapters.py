"""Adapters broken in every known way, asked of the real server on every route: each is the client's
error, and neither the base nor a good adapter answers differently for it.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bad_adapters import BAD_ADAPTERS, MAX_RANK, BadAdapter
from live_server import LiveServer
from lorax_serve.ipc.types import ErrorCode
from peft_adapters import build_adapter
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

GOOD = "good"


@dataclass(frozen=True)
class Site:
    """A running server, its adapter folder, and what base and good adapter said at first."""

    server: LiveServer
    adapters: Path
    answers: list[str]

    def num_open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.server.engine_pid}/fd"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("bad-adapters")
    base = build_tiny_model("llama", root / "model")
    write_byte_level(root / "model", vocab_size=300)
    build_adapter(root / "adapters" / GOOD, base, targets=["q_proj", "v_proj"])
    options = ("--model-id", root / "model", "--adapter-dir", root / "adapters")
    limits = ("--max-adapter-rank", str(MAX_RANK), "--num-threads", "1")
    with LiveServer(*options, *limits, log=root / "log") as server:
        site = Site(server, root / "adapters", answers(server))
        before = site.num_open_files()
        yield site
        assert site.num_open_files() <= before + 2
    assert "Traceback" not in (root / "log").read_text()


@pytest.mark.parametrize("bad", BAD_ADAPTERS, ids=lambda bad: bad.name)
def test_a_bad_adapter_is_the_clients_error_and_nobody_elses(bad: BadAdapter, site: Site) -> None:
    name = bad.name.replace(" ", "-")
    shutil.copytree(site.adapters / GOOD, site.adapters / name)
    bad.spoil(site.adapters / name)
    for route, body in requests(name):
        status, reply = site.server.post(route, body)
        error = reply["error"]
        if isinstance(error, str):
            assert status == 424, (route, reply)
            message = error
        else:
            expected = 404 if bad.code is ErrorCode.MODEL_NOT_FOUND else 422
            assert (status, error["code"]) == (expected, bad.code.value), (route, reply)
            message = error["message"]
        assert name in message, (route, reply)
        assert str(site.adapters) not in message
    assert answers(site.server) == site.answers
    assert not (site.adapters / name / "owned").exists()


def requests(adapter: str) -> list[tuple[str, dict[str, Any]]]:
    """One of each kind, both APIs, streamed and not."""
    native = {"inputs": "a", "parameters": {"adapter_id": adapter, "max_new_tokens": 2}}
    openai = {"model": adapter, "prompt": "a", "max_tokens": 2}
    return [
        ("/generate", native),
        ("/generate_stream", native),
        ("/", {**native, "stream": True}),
        ("/v1/completions", openai),
        ("/v1/completions", {**openai, "stream": True}),
    ]


def answers(server: LiveServer) -> list[str]:
    """What base and good adapter say, greedily."""
    texts = []
    for adapter in ({}, {"adapter_id": GOOD}):
        parameters = {"max_new_tokens": 8, "ignore_eos_token": True, **adapter}
        status, reply = server.post("/generate", {"inputs": "abc", "parameters": parameters})
        assert status == 200, reply
        texts.append(reply["generated_text"])
    assert texts[0] != texts[1]
    return texts
