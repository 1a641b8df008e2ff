"""A bucket that hangs: nobody else waits for it, and who gives up leaves nothing behind."""

import asyncio
import threading
from pathlib import Path

import pytest

from lorax_serve.server.sources.s3_objects import S3Body
from moto_bucket import BUCKET, NewSource
from unruly_adapter import ADAPTER_ID, WEIGHTS, fetch_weights
from unruly_bucket import UnrulyBucket, partial, silence, stall
from waiting import until


async def test_a_hanging_bucket_is_waited_for_by_nobody_else(
    bucket: UnrulyBucket, new_source: NewSource
) -> None:
    source = new_source(BUCKET, "other", stall_seconds=20, threads_per_bucket=2)
    bucket.faults["list"] = [silence] * 5
    hanging = [asyncio.create_task(source.resolve(ADAPTER_ID, None)) for _ in range(5)]
    await until(lambda: bucket.count("list") == 2)  # all the threads that this bucket has
    bucket.faults.clear()
    assert await source.resolve("s3://other/team/sql", None)
    assert bucket.count("list") == 3
    assert not any(task.done() for task in hanging)
    for task in hanging:
        task.cancel()
    await asyncio.wait(hanging)


async def test_a_stalled_file_holds_up_no_other(
    bucket: UnrulyBucket, new_source: NewSource, tmp_path: Path
) -> None:
    source = new_source(stall_seconds=20)
    adapter = await source.resolve(ADAPTER_ID, None)
    bucket.faults["get"] = [partial(0.5, stall)]
    stalled = asyncio.create_task(fetch_weights(source, adapter, tmp_path / "a"))
    await until(lambda: bucket.count("get"))
    assert await fetch_weights(source, adapter, tmp_path / "b") == WEIGHTS
    assert not stalled.done()
    stalled.cancel()
    await asyncio.wait([stalled])


async def test_who_gives_up_leaves_no_thread_behind(
    bucket: UnrulyBucket,
    new_source: NewSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is cut, though the bucket may be silent for minutes more."""
    source = new_source(stall_seconds=600)
    adapter = await source.resolve(ADAPTER_ID, None)
    bucket.faults["get"] = [partial(0.5, stall)]
    reading = threading.Event()
    read = S3Body.read
    monkeypatch.setattr(S3Body, "read", lambda body: reading.set() or read(body))
    task = asyncio.create_task(fetch_weights(source, adapter, tmp_path / "w"))
    await until(reading.is_set)  # by a thread, which will get nothing more
    task.cancel()
    await until(task.done)  # long before the minutes that the bucket would take
    await until(lambda: not any("(work)" in thread.name for thread in threading.enumerate()))
