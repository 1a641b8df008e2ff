"""Faults 15 and 19 in the store: what is not as it was is looked at, dropped and fetched again."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.store import lease as lease_module
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.content import folder_digest
from lorax_serve.server.store.lease import Entry, Lease
from lorax_serve.server.store.room import Quota
from store_cases import CONFIG_NAME, WEIGHTS_NAME, remote, sending

CONTENT = b"a" * 10_000
ADAPTER = remote("org/a", CONTENT)


def open_store(folder: Path) -> AdapterStore:
    return AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    made = open_store(tmp_path)
    yield made
    made.close()


async def receive(store: AdapterStore) -> Lease:
    return await store.receive("org/a", ADAPTER, sending(CONTENT))


async def get(store: AdapterStore) -> tuple[Lease, bool]:
    """A hold on the adapter, and whether it had to be fetched."""
    lease = await store.lease(ADAPTER)
    return (lease, False) if lease is not None else (await receive(store), True)


def overwrite(path: Path) -> None:
    """Other bytes, as many as before, in the same file."""
    before = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"x" * path.stat().st_size)
    os.utime(path, ns=(before, before + 1))  # clocks of file systems are coarse


def replace(path: Path) -> None:
    """Another file of the same size and time."""
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(b"x" * before.st_size)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def add_a_file(path: Path) -> None:
    path.with_name("extra.safetensors").write_bytes(b"x")


@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME])
@pytest.mark.parametrize("damage", [Path.unlink, overwrite, replace, truncate, add_a_file])
async def test_fault_19_one_damaged_file_is_noticed_and_fetched_again_once(
    store: AdapterStore, name: str, damage: Callable[[Path], None]
) -> None:
    (await receive(store)).release()
    first, fetched = await get(store)
    assert not fetched
    first.release()
    damage(first.path / name)
    again, fetched = await get(store)
    assert fetched
    assert folder_digest(again.path) == again.digest
    assert (await get(store))[1] is False


async def test_files_that_only_look_changed_are_read_again_and_kept(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await receive(store)
    hashed: list[Path] = []

    def counting(folder: Path) -> str:
        hashed.append(folder)
        return folder_digest(folder)

    monkeypatch.setattr(lease_module, "folder_digest", counting)
    os.utime(lease.path / WEIGHTS_NAME, (1, 1))
    for _ in range(3):
        assert (await get(store))[1] is False
    assert hashed == [lease.path], "hashed once for each change"


async def test_a_process_without_descriptors_does_not_take_entries_for_damaged(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await receive(store)

    def no_descriptors(folder: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(lease_module, "folder_state", no_descriptors)
    with pytest.raises(ServeError) as caught:
        await store.lease(ADAPTER)
    assert caught.value.code is ErrorCode.INSUFFICIENT_STORAGE
    monkeypatch.undo()
    (entry,) = store._entries.values()
    assert entry.num_leases == 1
    assert (await get(store))[0].path == held.path


async def test_a_damaged_entry_stays_while_others_hold_it(
    store: AdapterStore, tmp_path: Path
) -> None:
    held = await receive(store)
    overwrite(held.path / WEIGHTS_NAME)
    new, fetched = await get(store)
    assert fetched and new.digest == held.digest and new.path != held.path
    assert folder_digest(new.path) == new.digest
    assert (held.path / WEIGHTS_NAME).read_bytes() == b"x" * len(CONTENT)
    with_both = store.charged_bytes
    other = held.share()
    held.release()
    await asyncio.sleep(0.05)
    assert other.path.is_dir()
    other.release()
    await until(lambda: not held.path.exists())
    await until(lambda: store.charged_bytes == with_both // 2)
    assert (new.path / WEIGHTS_NAME).read_bytes() == CONTENT
    assert (await get(store))[1] is False
    assert store.num_entries == 1


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


async def test_after_a_kill_the_newer_of_two_copies_counts(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    held = await receive(store)
    overwrite(held.path / WEIGHTS_NAME)
    new, _ = await get(store)
    store.close()  # with both still held, as a kill would leave them
    store = open_store(tmp_path)
    assert not held.path.exists()
    again, fetched = await get(store)
    assert (again.path, fetched) == (new.path, False)
    store.close()


async def test_a_third_copy_goes_after_the_second(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first = await receive(store)
    overwrite(first.path / WEIGHTS_NAME)
    second, _ = await get(store)
    overwrite(second.path / WEIGHTS_NAME)
    first.release()
    await until(lambda: not first.path.exists())
    third, _ = await get(store)
    store.close()
    reopened = open_store(tmp_path)
    assert third.path.is_dir() and not second.path.exists()
    reopened.close()


async def test_fault_15_what_the_engine_refuses_is_fetched_again_once(store: AdapterStore) -> None:
    lease = await receive(store)
    lease.distrust()
    assert lease.path.is_dir()
    lease.release()
    again, fetched = await get(store)
    assert fetched
    again.distrust()  # the same bytes came once more, so the source has no others
    assert (await get(store))[1] is False


async def test_a_part_of_a_refused_merge_is_hashed_and_kept_if_it_is_whole(
    store: AdapterStore,
) -> None:
    lease = await receive(store)
    lease.recheck()
    assert (await get(store))[1] is False
    path = lease.path / WEIGHTS_NAME
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # nothing to be seen outside
    assert (await get(store))[1] is False
    lease.recheck()
    assert (await get(store))[1] is True


async def test_a_late_holder_does_not_bring_back_a_dropped_name(store: AdapterStore) -> None:
    held = await receive(store)
    overwrite(held.path / WEIGHTS_NAME)
    assert await store.lease(ADAPTER) is None
    await store.remember("org/a", ADAPTER, held)
    assert store.last_meaning("hub", "org/a") is None


async def test_who_leaves_while_it_is_published_leaves_an_entry(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.create_task(receive(store))
    publish = store._folders.publish
    loop = asyncio.get_running_loop()

    def leaving(key: str, entry: Path) -> None:
        loop.call_soon_threadsafe(asked.cancel)
        publish(key, entry)

    monkeypatch.setattr(store._folders, "publish", leaving)
    with pytest.raises(asyncio.CancelledError):
        await asked
    monkeypatch.undo()
    (entry,) = store._entries.values()
    assert isinstance(entry, Entry) and entry.num_leases == 0
    assert (await receive(store)).path == entry.path, "and no second copy"
