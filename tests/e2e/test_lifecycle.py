"""Two processes that live and die together, whatever happens to either."""

import os
import signal
import threading
import time
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from e2e_constants import CACHE
from live_server import LiveServer

MESSAGES = [{"role": "user", "content": "Tell me a long story."}]


def wait_until_gone(pid: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if status == "Z":
            return
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def socket_folders() -> set[Path]:
    return set(Path("/tmp").glob("lorax-serve-*"))


@pytest.fixture
def own_server(demo_model: Path, tmp_path: Path) -> LiveServer:
    with LiveServer("--cache-dir", CACHE, log=tmp_path / "log") as running:
        yield running


def open_streams(server: LiveServer, count: int) -> tuple[list[threading.Thread], list[object]]:
    """`count` clients reading a long answer each; what each of them ended with."""
    ends: list[object] = []
    started = threading.Barrier(count + 1)

    def read() -> None:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="", messages=MESSAGES, stream=True, max_tokens=4000, temperature=1
            )
            next(iter(stream))
            started.wait(timeout=60)
            try:
                for _ in stream:
                    continue
                ends.append("complete")
            except openai.OpenAIError as error:
                ends.append(error)

    threads = [threading.Thread(target=read) for _ in range(count)]
    for thread in threads:
        thread.start()
    started.wait(timeout=60)
    return threads, ends


def test_a_killed_engine_is_reported_to_every_open_stream(own_server: LiveServer) -> None:
    threads, ends = open_streams(own_server, 4)
    os.kill(own_server.engine_pid, signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=10)
    assert len(ends) == 4
    assert all(isinstance(end, openai.APIError) for end in ends), ends
    assert own_server.process.wait(timeout=20) != 0
    assert own_server.group() == []


def test_ctrl_c_ends_both_and_leaves_nothing(demo_model: Path, tmp_path: Path) -> None:
    before = socket_folders()
    with LiveServer(
        "--cache-dir", CACHE, "--shutdown-timeout", "0", log=tmp_path / "log"
    ) as server:
        assert len(server.group()) == 2
        threads, ends = open_streams(server, 1)
        server.interrupt()
        assert server.process.wait(timeout=20) == 0
        threads[0].join(timeout=10)
        assert isinstance(ends[0], openai.APIError)
        assert server.group() == []
    assert socket_folders() <= before


def test_the_engine_does_not_outlive_its_frontend(own_server: LiveServer) -> None:
    engine = own_server.engine_pid
    own_server.process.kill()
    wait_until_gone(engine)


def test_an_abort_frees_the_engine_for_others(own_server: LiveServer) -> None:
    """A client that leaves takes its whole sequence with it: the engine's CPU time stands still."""
    with OpenAI(base_url=f"{own_server.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="", messages=MESSAGES, stream=True, max_tokens=8000, temperature=1
        )
        next(iter(stream))
        stream.close()
    stat = Path(f"/proc/{own_server.engine_pid}/stat")

    def cpu_ticks() -> int:
        fields = stat.read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    deadline = time.monotonic() + 20
    while True:
        before = cpu_ticks()
        time.sleep(0.5)
        if cpu_ticks() - before <= 5:
            return
        assert time.monotonic() < deadline, "the engine goes on generating for nobody"
