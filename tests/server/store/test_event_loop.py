"""The store touches the disk on threads only: a slow disk holds up nobody who needs none."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorax_serve.server.sources.source import RemoteFile, SourceCorrupt, SourceUnavailable
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.incoming import OnBytes
from lorax_serve.server.store.room import Quota, charged_bytes
from store_cases import CONFIG_NAME, WEIGHTS_NAME, remote

WATCHED = (
    *("open", "stat", "lstat", "statvfs", "listdir", "scandir", "mkdir", "rmdir", "rename"),
    *("replace", "unlink", "remove", "utime", "fsync"),
)


async def send(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
    def write() -> int:
        held = destination.stat().st_size if destination.exists() else 0
        content = b"{}" if file.name == CONFIG_NAME else bytes(file.num_bytes)
        with destination.open("ab") as written:
            return written.write(content[held:])

    on_bytes(await asyncio.to_thread(write))


async def stop(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
    if file.name == WEIGHTS_NAME:
        raise SourceUnavailable("gone")
    await send(file, destination, on_bytes)


async def lie(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
    await asyncio.to_thread(destination.write_bytes, b"x" * file.num_bytes)


async def test_no_file_is_touched_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_thread, touched = threading.get_ident(), []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def touch(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == loop_thread:
                touched.append((name, args))
            return function(*args, **kwargs)

        return touch

    small, adapters = 1000, [remote(f"org/{n}", bytes(1000 + n)) for n in range(4)]
    quota = Quota(
        max_bytes=2 * charged_bytes([2, small]) + 1,
        free_share=0,
        free_bytes=0,
        disk_state=lambda folder: os.statvfs(folder),
    )
    store = AdapterStore(tmp_path, quota)
    for name in WATCHED:
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    with pytest.raises(SourceUnavailable):
        await store.receive("org/0", adapters[0], stop)
    with pytest.raises(SourceCorrupt):
        await store.receive("org/1", adapters[1], lie)
    for number, adapter in enumerate(adapters):  # resumed, and evicted
        (await store.receive(f"org/{number}", adapter, send)).release()
    (lease,) = [lease for lease in [await store.lease(adapters[3])] if lease is not None]
    await store.remember("org/3@main", adapters[3], lease)
    await store.forget("hub", "org/3@main")
    lease.distrust()
    assert await store.lease(adapters[3]) is None
    lease.release()
    monkeypatch.undo()
    assert touched == []
    assert store.num_entries == 1
    store.close()
