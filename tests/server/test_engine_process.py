"""What an engine process is born with, and how its end is told; its life is in test_supervisor."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

import lorax_serve
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.server.child_process import describe_exit
from lorax_serve.server.engine_process import EngineProcess, engine_environment


async def test_an_engine_is_deaf_to_ctrl_c_from_its_first_instruction_on() -> None:
    blocked = "import signal, sys; sys.exit(signal.SIGINT in signal.pthread_sigmask(0, []))"
    config = EngineConfig(endpoint="ipc:///nowhere", model_path="/nowhere")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    process = EngineProcess(config, engine_environment(os.environ), [sys.executable, "-c", blocked])
    assert await process.wait() == "ended with exit code 1"
    await process.stop(asyncio.Event())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_the_engine_sees_the_same_package_and_no_credentials() -> None:
    environment = engine_environment(
        {
            "HF_TOKEN": "a",
            "AWS_ACCESS_KEY_ID": "b",
            "AWS_SECRET_ACCESS_KEY": "c",
            "Db_Password": "d",
            "PYTHONPATH": "/x",
        }
    )
    assert set(environment) == {"PYTHONPATH"}
    package, inherited = environment["PYTHONPATH"].split(":")
    assert (Path(package) / "lorax_serve" / "py.typed").is_file()
    assert inherited == "/x"


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(0, "ended with exit code 0"), (-9, "was killed by SIGKILL"), (-11, "was killed by SIGSEGV")],
)
def test_exits_in_words(returncode: int, words: str) -> None:
    assert describe_exit(returncode) == words


def test_an_installed_package_is_not_put_before_the_standard_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = "/usr/lib/python3/dist-packages/lorax_serve/__init__.py"
    monkeypatch.setattr(lorax_serve, "__file__", place)
    assert engine_environment({"PYTHONPATH": "/x"}) == {"PYTHONPATH": "/x"}
    assert engine_environment({}) == {}
