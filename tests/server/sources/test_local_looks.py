"""Folders on a file system that hangs: whoever asks is told, and nobody else waits."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorax_serve.ipc.types import AdapterRef, ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.local import AdapterNames, LocalAdapters
from lorax_serve.server.sources.local_looks import LocalLooks


class Hanging(LocalAdapters):
    """What is named slow-… lies where no call returns until the file system is back."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, allow_absolute=False)
        self.is_back = threading.Event()
        self.num_looks = 0

    def resolve(self, adapter_id: str) -> AdapterRef:
        self.num_looks += 1
        if adapter_id.startswith("slow"):
            self.is_back.wait()
        return super().resolve(adapter_id)

    def list(self) -> AdapterNames:
        self.is_back.wait()
        return super().list()


@pytest.fixture
def adapters(tmp_path: Path) -> Iterator[Hanging]:
    for number in range(40):
        (tmp_path / f"slow-{number}").mkdir()
    (tmp_path / "quick").mkdir()
    made = Hanging(tmp_path)
    yield made
    made.is_back.set()


async def refused(looks: LocalLooks, name: str) -> ErrorCode:
    with pytest.raises(ServeError) as caught:
        await looks.resolve(name)
    return caught.value.code


async def test_a_folder_that_hangs_holds_up_nobody_else(adapters: Hanging) -> None:
    looks = LocalLooks(adapters, seconds=0.05)
    for _ in range(3):
        asked = [looks.resolve("slow-1") for _ in range(50)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {getattr(each, "code", None) for each in answers} == {ErrorCode.ADAPTER_UNAVAILABLE}
        patient = LocalLooks(adapters, seconds=30)
        assert (await patient.resolve("quick")).name == "quick"
    assert adapters.num_looks == 1 + 3, "one thread for all that asked for the one that hangs"


async def test_a_folder_that_is_back_is_served_again(adapters: Hanging) -> None:
    looks = LocalLooks(adapters, seconds=0.05)
    assert await refused(looks, "slow-1") is ErrorCode.ADAPTER_UNAVAILABLE
    adapters.is_back.set()
    for _ in range(100):
        try:
            assert (await looks.resolve("slow-1")).name == "slow-1"
            break
        except ServeError:
            continue
    else:
        raise AssertionError("never served again")
    assert await looks.names() == []


async def test_lists_that_hang_hold_up_no_look(adapters: Hanging) -> None:
    looks = LocalLooks(adapters, seconds=0.05)
    for _ in range(10):
        with pytest.raises(ServeError):
            await looks.names()
    patient = LocalLooks(adapters, seconds=30)
    assert (await patient.resolve("quick")).name == "quick"


async def test_who_asks_learns_what_lay_there_afterwards(tmp_path: Path) -> None:
    """A look that began before somebody replaced the folder does not answer those who ask later."""
    began, go_on = threading.Event(), threading.Event()

    class Slow(LocalAdapters):
        def resolve(self, adapter_id: str) -> AdapterRef:
            ref = super().resolve(adapter_id)
            began.set()
            go_on.wait(30)
            return ref

    (tmp_path / "a").mkdir()
    looks = LocalLooks(Slow(tmp_path, allow_absolute=False), seconds=30)
    before = asyncio.create_task(looks.resolve("a"))
    await asyncio.to_thread(began.wait, 30)
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    after = [asyncio.create_task(looks.resolve("a")) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    revisions = {(await each).revision for each in after}
    assert len(revisions) == 1 and (await before).revision not in revisions


async def test_an_absent_folder_is_not_found(adapters: Hanging) -> None:
    looks = LocalLooks(adapters)
    assert await refused(looks, "absent") is ErrorCode.MODEL_NOT_FOUND
    assert looks._by_name == {}
