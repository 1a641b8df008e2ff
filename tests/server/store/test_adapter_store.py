"""The store on disk: whole entries only, bounded, resumable, and safe from a kill at any point."""

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.source import RemoteFile, SourceCorrupt, SourceUnavailable
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.content import (
    content_digest,
    folder_digest,
    is_adapter_file,
    is_shard,
)
from lorax_serve.server.store.folders import StoreBusy
from lorax_serve.server.store.incoming import OnBytes
from lorax_serve.server.store.room import BLOCK_BYTES, Quota, charged_bytes
from store_cases import CONFIG_NAME, WEIGHTS_NAME, not_asked, remote, sending

SUPPORT = Path(__file__).parents[2] / "support"
UNIT = 64 * 1024  # as much as every adapter is charged for its folder and names


@dataclass
class Disk:
    """A disk's state as the test says; blocks are bytes."""

    f_bavail: int
    f_blocks: int = 0
    f_frsize: int = 1


def quota(max_bytes: int = 100 * UNIT, disk: Disk | None = None, free_bytes: int = 0) -> Quota:
    state = disk or Disk(2**40)
    return Quota(max_bytes=max_bytes, free_bytes=free_bytes, disk_state=lambda folder: state)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    made = AdapterStore(tmp_path / "store", quota())
    yield made
    made.close()


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"lock"}


def weights(fill: str, num_bytes: int = 10 * UNIT) -> bytes:
    return fill.encode() * num_bytes


async def keep(store: AdapterStore, name: str, content: bytes) -> str:
    """Puts an adapter in, unheld; its digest."""
    lease = await store.receive(name, remote(name, content), sending(content))
    lease.release()
    return lease.digest


async def test_an_entry_is_a_folder_named_by_its_content(
    store: AdapterStore, tmp_path: Path
) -> None:
    content = weights("a")
    lease = await store.receive("org/a", remote("org/a", content), sending(content))
    assert lease.path == tmp_path / "store" / "sha256" / lease.digest[:2] / lease.digest[2:]
    assert lease.digest == folder_digest(lease.path)
    assert lease.digest == content_digest(
        (name, hashlib.sha256(data).hexdigest())
        for name, data in ((WEIGHTS_NAME, content), (CONFIG_NAME, b"{}"))
    )
    assert (lease.path / WEIGHTS_NAME).read_bytes() == content
    assert store.charged_bytes == charged_bytes([len(content), 2])


async def test_the_same_bytes_of_two_repositories_are_one_entry(store: AdapterStore) -> None:
    assert await keep(store, "org/a", weights("a")) == await keep(store, "org/b", weights("a"))
    assert (store.num_entries, store.charged_bytes) == (1, charged_bytes([10 * UNIT, 2]))
    for name in ("org/a", "org/b"):
        lease = await store.lease(remote(name, weights("a")))
        assert lease is not None


async def test_other_content_has_another_digest(store: AdapterStore) -> None:
    digests = {
        await keep(store, "org/a", weights(fill, size)) for fill, size in (("a", 5), ("b", 5))
    }
    assert len(digests) == 2


async def test_the_smallest_adapters_take_no_more_of_the_disk_than_the_quota(
    tmp_path: Path,
) -> None:
    """Files take whole blocks, and so do folders and the files that names are kept in."""
    store = AdapterStore(tmp_path, quota(max_bytes=30 * UNIT))
    for number in range(40):
        content = b"%d" % number
        lease = await store.receive(f"{number}@0", remote("a", content), sending(content))
        for revision in range(1, 20):
            await store.remember(f"{number}@{revision}", remote("a", content), lease)
        lease.release()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]
    folders = list((tmp_path / "sha256").glob("??/*"))
    assert len(folders) == store.num_entries > 10
    num_blocks = len(folders) + sum(-(-path.stat().st_size // BLOCK_BYTES) for path in files)
    assert num_blocks * BLOCK_BYTES == store.charged_bytes <= 30 * UNIT
    before = store.charged_bytes
    store.close()
    store = AdapterStore(tmp_path, quota(max_bytes=30 * UNIT))
    assert store.charged_bytes == before, "after a restart as well"
    store.close()


async def test_what_was_used_longest_ago_goes_first_and_never_what_is_held(
    store: AdapterStore,
) -> None:
    for name in "abc":
        await keep(store, name, weights(name, 30 * UNIT))
    held = await store.lease(remote("a", weights("a", 30 * UNIT)))
    assert held is not None
    await keep(store, "d", weights("d", 30 * UNIT))  # a was used last, so b goes
    assert [bool(await there(store, name)) for name in "abcd"] == [True, False, True, True]
    for name in "cd":  # both are now younger than a, which is held
        assert await there(store, name)
    await keep(store, "e", weights("e", 60 * UNIT))
    assert [bool(await there(store, name)) for name in "acde"] == [True, False, False, True]
    assert held.path.is_dir()


async def there(store: AdapterStore, name: str) -> bool:
    lease = await store.lease(remote(name, weights(name, 30 * UNIT)))
    if lease is not None:
        lease.release()
    return lease is not None


async def test_without_room_nothing_is_fetched(store: AdapterStore, tmp_path: Path) -> None:
    held = await store.receive(
        "a", remote("a", weights("a", 60 * UNIT)), sending(weights("a", 60 * UNIT))
    )
    await keep(store, "c", weights("c", 20 * UNIT))
    before = files_below(tmp_path)
    with pytest.raises(ServeError) as caught:
        await store.receive("b", remote("b", weights("b", 60 * UNIT)), not_asked)
    assert caught.value.code is ErrorCode.INSUFFICIENT_STORAGE
    assert files_below(tmp_path) == before
    held.release()
    await keep(store, "b", weights("b", 60 * UNIT))
    assert store.num_entries == 2


async def test_fault_23_the_disk_keeps_its_reserve(tmp_path: Path) -> None:
    disk = Disk(f_bavail=0, f_blocks=1000 * UNIT)
    store = AdapterStore(
        tmp_path, Quota(max_bytes=2**40, free_bytes=UNIT, disk_state=lambda f: disk)
    )
    needed = charged_bytes([10 * UNIT, 2])
    disk.f_bavail = 50 * UNIT + UNIT + needed - 1  # 5 % of the disk and a fixed part stay free
    with pytest.raises(ServeError) as caught:
        await store.receive("a", remote("a", weights("a")), not_asked)
    assert caught.value.code is ErrorCode.INSUFFICIENT_STORAGE
    disk.f_bavail += 1
    await keep(store, "a", weights("a"))
    store.close()


async def test_fault_23_the_disk_is_full_all_the_same(store: AdapterStore, tmp_path: Path) -> None:
    async def fetch(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        destination.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ServeError) as caught:
        await store.receive("a", remote("a", weights("a")), fetch)
    assert caught.value.code is ErrorCode.INSUFFICIENT_STORAGE
    assert files_below(tmp_path / "store") == set()
    assert store.charged_bytes == 0


async def test_fault_23_names_that_cannot_be_written_are_known_all_the_same(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(dir: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    await keep(store, "a", weights("a"))
    assert store.last_meaning("hub", "a") == remote("a", weights("a"))


SMALL_DISK = """
import asyncio, sys
from pathlib import Path
from lorax_serve.server.errors import ServeError
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from store_cases import remote, sending

async def main():
    store = AdapterStore(Path(sys.argv[1]), Quota(max_bytes=2**40, free_share=0, free_bytes=-2**40))
    big = bytes(9 * 2**20)
    try:
        await store.receive("big", remote("big", big), sending(big))
    except ServeError as error:
        print(error.code.value)
    print([p for p in Path(sys.argv[1]).rglob("*.safetensors")])
    small = bytes(2**20)
    await store.receive("small", remote("small", small), sending(small))
    print(store.num_entries)

asyncio.run(main())
"""


def test_fault_23_a_real_disk_that_is_full(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=8m tmpfs {tmp_path} && exec "
    command = mount + f"{sys.executable} -P -c '{SMALL_DISK}' {tmp_path}"
    source_root = Path(__file__).parents[3] / ".src"
    environ = {**os.environ, "PYTHONPATH": f"{source_root}:{SUPPORT}"}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], env=environ, capture_output=True, text=True
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no right to mount a small disk")
    printed = [line for line in done.stdout.splitlines() if "adapter_" not in line]  # no logs
    assert printed[-3:] == ["insufficient_storage", "[]", "1"], done.stderr


@pytest.mark.parametrize("spoilt", [b"x" * 10 * UNIT, b"a" * 9 * UNIT, b"a" * 11 * UNIT, b""])
async def test_fault_21_other_bytes_than_announced_are_not_kept(
    store: AdapterStore, tmp_path: Path, spoilt: bytes
) -> None:
    with pytest.raises(SourceCorrupt):
        await store.receive("a", remote("a", weights("a")), sending(spoilt))
    assert files_below(tmp_path / "store") == set()
    await keep(store, "a", weights("a"))


async def test_an_unfinished_download_goes_on_where_it_was(tmp_path: Path) -> None:
    content = weights("a") + weights("b")
    asked_from: list[int] = []

    async def half(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        if file.name == CONFIG_NAME:
            return await sending(b"")(file, destination, on_bytes)
        destination.write_bytes(content[:5000])
        on_bytes(5000)
        raise SourceUnavailable("gone")

    async def rest(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        asked_from.append(destination.stat().st_size if destination.exists() else 0)
        await sending(content)(file, destination, on_bytes)

    for restarts in (False, True):
        name = f"org/{restarts}"
        store = AdapterStore(tmp_path, quota())
        with pytest.raises(SourceUnavailable):
            await store.receive(name, remote(name, content), half)
        assert store.charged_bytes >= 5000
        if restarts:
            store.close()
            store = AdapterStore(tmp_path, quota())
        lease = await store.receive(name, remote(name, content), rest)
        assert (lease.path / WEIGHTS_NAME).read_bytes() == content
        store.close()
    assert asked_from == [5000, 0, 5000]  # the config has no digest


@pytest.mark.parametrize("spoils", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
async def test_without_a_digest_only_what_this_process_wrote_goes_on(
    tmp_path: Path, restarts: bool, spoils: bool
) -> None:
    content = weights("a")
    known = remote("a", content)
    adapter = replace(known, files=tuple(replace(file, sha256=None) for file in known.files))
    store = AdapterStore(tmp_path, quota())

    async def half(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        if file.name == CONFIG_NAME:
            return await sending(b"")(file, destination, on_bytes)
        destination.write_bytes(content[:5000])
        raise SourceUnavailable("gone")

    with pytest.raises(SourceUnavailable):
        await store.receive("a", adapter, half)
    large = weights("b", 97 * UNIT)
    held = await store.receive("b", remote("b", large), sending(large))
    with pytest.raises(ServeError):  # no room: it is looked at, and nothing more
        await store.receive("a", adapter, not_asked)
    held.release()
    if restarts:
        store.close()
        store = AdapterStore(tmp_path, quota())
        with pytest.raises(SourceUnavailable):  # which makes no file of before its own
            await store.receive("a", adapter, failing)
    if spoils:
        for path in (tmp_path / "partial").rglob(WEIGHTS_NAME):
            path.write_bytes(b"x" * 5000)
    asked_from: list[int] = []

    async def rest(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        asked_from.append(destination.stat().st_size if destination.exists() else 0)
        await sending(content)(file, destination, on_bytes)

    lease = await store.receive("a", adapter, rest)
    assert (lease.path / WEIGHTS_NAME).read_bytes() == content
    assert asked_from == ([0, 0] if restarts else [0] if spoils else [5000])
    store.close()


async def failing(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
    raise SourceUnavailable("gone")


async def test_a_beginning_that_a_crash_spoilt_is_fetched_anew(
    store: AdapterStore, tmp_path: Path
) -> None:
    adapter = remote("a", weights("a"))

    async def zeros(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        destination.write_bytes(bytes(100))
        raise SourceUnavailable("gone")

    with pytest.raises(SourceUnavailable):
        await store.receive("a", adapter, zeros)
    for path in (tmp_path / "store" / "partial").rglob(CONFIG_NAME):
        path.rename(path.with_name(WEIGHTS_NAME))
    lease = await store.receive("a", adapter, sending(weights("a")))
    assert (lease.path / WEIGHTS_NAME).read_bytes() == weights("a")


async def test_room_is_made_from_unfinished_downloads_first(store: AdapterStore) -> None:
    async def stops(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        destination.write_bytes(bytes(1))
        raise SourceUnavailable("gone")

    await keep(store, "a", weights("a", 30 * UNIT))
    with pytest.raises(SourceUnavailable):
        await store.receive("b", remote("b", weights("b", 30 * UNIT)), stops)
    await keep(store, "c", weights("c", 70 * UNIT - 2 * charged_bytes([2])))
    assert await there(store, "a")
    assert store.charged_bytes == 100 * UNIT


async def test_after_a_restart_everything_is_known_and_looked_at_again(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, quota())
    for name in "abc":
        await keep(store, name, weights(name))
    os.utime(next((tmp_path / "sha256").glob("??/*")).parent)
    store.close()

    spoilt = tmp_path / "sha256" / (digest := digest_of("b"))[:2] / digest[2:] / WEIGHTS_NAME
    spoilt.write_bytes(weights("x"))
    store = AdapterStore(tmp_path, quota())
    assert store.num_entries == 3
    held = [await store.lease(remote(name, weights(name))) for name in "abc"]
    assert [lease is not None for lease in held] == [True, False, True]
    assert not spoilt.exists()
    meaning = store.last_meaning("hub", "a")
    assert meaning == remote("a", weights("a"))
    assert store.last_meaning("hub", "b") is None
    store.close()


def digest_of(name: str) -> str:
    files = {WEIGHTS_NAME: weights(name), CONFIG_NAME: b"{}"}
    return content_digest((n, hashlib.sha256(data).hexdigest()) for n, data in files.items())


async def test_fault_19_an_entry_that_somebody_deleted_is_fetched_again(
    store: AdapterStore,
) -> None:
    lease = await store.receive("a", remote("a", weights("a")), sending(weights("a")))
    for path in lease.path.iterdir():
        path.unlink()
    lease.path.rmdir()
    lease.release()
    assert await store.lease(remote("a", weights("a"))) is None
    assert (
        await store.receive("a", remote("a", weights("a")), sending(weights("a")))
    ).path.is_dir()


def unlink_weights(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()


def overwrite_weights(folder: Path) -> None:
    size = (folder / WEIGHTS_NAME).stat().st_size
    (folder / WEIGHTS_NAME).write_bytes(b"x" * size)


@pytest.mark.parametrize("harm", [unlink_weights, overwrite_weights])
@pytest.mark.parametrize("somebody_holds_it", [False, True])
async def test_faults_15_and_19_a_damaged_entry_is_fetched_again(
    store: AdapterStore, harm: Callable[[Path], None], somebody_holds_it: bool
) -> None:
    adapter = remote("a", weights("a"))
    held = await store.receive("a", adapter, sending(weights("a")))
    if not somebody_holds_it:
        held.release()
    again = await store.lease(adapter)
    assert again is not None
    harm(again.path)
    again.release()
    assert await store.lease(adapter) is None
    fresh = await store.receive("a", adapter, sending(weights("a")))
    assert (fresh.path / WEIGHTS_NAME).read_bytes() == weights("a")
    held.release()
    assert (await store.lease(adapter)) is not None and store.num_entries == 1


async def test_files_touched_but_equal_are_not_fetched_again(store: AdapterStore) -> None:
    adapter = remote("a", weights("a"))
    lease = await store.receive("a", adapter, sending(weights("a")))
    os.utime(lease.path / WEIGHTS_NAME, (1, 1))
    assert await store.lease(adapter) is not None


async def test_rubbish_is_swept_at_start(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, quota())
    await keep(store, "a", weights("a"))
    store.close()
    (tmp_path / "trash" / "old").mkdir()
    (tmp_path / "trash" / "old" / WEIGHTS_NAME).write_bytes(b"x")
    (tmp_path / "names" / "tmp1234").write_bytes(b"{")
    (known,) = (tmp_path / "names").glob("*.json")
    (tmp_path / "names" / "tmp5678").write_bytes(known.read_bytes())
    old = tmp_path / "partial" / "f00"
    old.mkdir()
    (old / WEIGHTS_NAME).write_bytes(b"x")
    os.utime(old, (0, 0))
    store = AdapterStore(tmp_path, quota())
    assert not old.exists()
    assert list((tmp_path / "trash").iterdir()) == []
    assert len(list((tmp_path / "names").iterdir())) == 1
    assert store.charged_bytes == charged_bytes([10 * UNIT, 2])
    store.close()


@pytest.mark.parametrize("name", ["../x", "modeling_x.py", "adapter_model.bin", "README.md"])
async def test_no_other_file_is_written(store: AdapterStore, tmp_path: Path, name: str) -> None:
    adapter = replace(remote("a", b"x"), files=(RemoteFile(name, 1, None),))
    with pytest.raises(ValueError, match="no such file"):
        await store.receive("a", adapter, sending(b"x"))
    assert files_below(tmp_path / "store") == set()


async def test_names_are_bounded(store: AdapterStore, tmp_path: Path) -> None:
    lease = await store.receive("a", remote("a", weights("a")), sending(weights("a")))
    for number in range(100):
        await store.remember(f"a@{number}", remote("a", weights("a")), lease)
    assert len(list((tmp_path / "store" / "names").iterdir())) == 16
    assert store.last_meaning("hub", "a@99") is not None


def test_a_store_has_one_server(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, quota())
    with pytest.raises(StoreBusy):
        AdapterStore(tmp_path, quota())
    store.close()
    AdapterStore(tmp_path, quota()).close()


@given(st.text(max_size=40))
def test_no_other_name_is_ever_a_file(name: str) -> None:
    assert is_adapter_file(name) == (name in (CONFIG_NAME, "adapter_model.safetensors"))


@given(st.from_regex(r"\A(\.\./|/|)adapter_model(-\d{5}-of-\d{5})?\.safetensors(\n|/|\0|)\Z"))
def test_names_that_are_nearly_right(name: str) -> None:
    plain = not name.startswith((".", "/")) and name.endswith("s") and name.isascii()
    assert is_adapter_file(name) == (plain and "-" not in name)
    assert is_shard(name) == (plain and "-" in name)


KILLED = """
import asyncio, sys
from pathlib import Path
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from store_cases import CONFIG_NAME, remote, sending

async def slowly(file, destination, on_bytes):
    content = b"{}" if file.name == CONFIG_NAME else content_of(number)
    held = destination.stat().st_size if destination.exists() else 0
    with destination.open("ab") as written:
        for start in range(held, len(content), 1000):
            written.write(content[start:start + 1000])
            written.flush()
            on_bytes(len(content[start:start + 1000]))
            await asyncio.sleep(0)

def content_of(number):
    return str(number).encode() * 40_000

async def main():
    global number
    store = AdapterStore(Path(sys.argv[1]), Quota(max_bytes=400_000, free_share=0, free_bytes=0))
    print("started", flush=True)
    for number in range(10_000):
        adapter = remote(f"org/{number}", content_of(number))
        (await store.receive(f"org/{number}", adapter, slowly)).release()

asyncio.run(main())
"""


@pytest.mark.parametrize("milliseconds", [1, 4, 9, 17, 30, 50])
async def test_a_kill_at_any_point_leaves_whole_entries_only(
    tmp_path: Path, milliseconds: int
) -> None:
    source_root = Path(__file__).parents[3] / ".src"
    command = [sys.executable, "-P", "-c", KILLED, str(tmp_path / "store")]
    environ = {**os.environ, "PYTHONPATH": f"{source_root}:{SUPPORT}"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        await asyncio.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGKILL)
    store = AdapterStore(tmp_path / "store", quota(2**30))
    entries = list((tmp_path / "store" / "sha256").glob("??/*"))
    assert [path.parent.name + path.name for path in entries] == list(map(folder_digest, entries))
    assert store.num_entries == len(entries)
    assert list((tmp_path / "store" / "trash").iterdir()) == []
    for number in range(len(entries) + 2):
        content = str(number).encode() * 40_000
        adapter = remote(f"org/{number}", content)
        lease = await store.lease(adapter)
        if lease is None:
            lease = await store.receive(f"org/{number}", adapter, sending(content))
        assert (lease.path / WEIGHTS_NAME).read_bytes() == content
    store.close()
