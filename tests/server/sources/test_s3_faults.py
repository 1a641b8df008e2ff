"""Rows 20 and 21 of the fault matrix (a source that refuses, fails, stalls, resets, lies) for
buckets, on real sockets.
"""

import asyncio
import logging
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteAdapter,
    SourceCorrupt,
    SourceError,
    SourceUnavailable,
)
from moto_bucket import BUCKET, settings_for
from unruly_bucket import (
    QUICK,
    Fault,
    UnrulyBucket,
    etag_of,
    hang_up,
    partial,
    reset,
    silence,
    stall,
    status,
    trickle,
    unruly_bucket,
    whole,
)

TOKEN = "token-canary"
ADAPTER_ID = f"s3://{BUCKET}/team/sql"
CONFIG_KEY = "team/sql/adapter_config.json"
WEIGHTS_KEY = "team/sql/adapter_model.safetensors"
WEIGHTS = bytes(range(256)) * 4000  # one megabyte


@pytest.fixture(scope="module")
def server() -> Iterator[UnrulyBucket]:
    with unruly_bucket(UnrulyBucket()) as served:
        yield served


@pytest.fixture
def bucket(server: UnrulyBucket) -> Iterator[UnrulyBucket]:
    server.begin({CONFIG_KEY: b"{}", WEIGHTS_KEY: WEIGHTS})
    yield server
    server.released.set()


# Making boto3's client takes longer than most tests, so those that can share one.
@pytest.fixture(scope="module")
def source(server: UnrulyBucket) -> S3Source:
    return S3Source(settings_for(server.url, stall_seconds=10), QUICK)


@pytest.fixture(scope="module")
def impatient(server: UnrulyBucket) -> S3Source:
    return S3Source(settings_for(server.url, stall_seconds=0.3), QUICK)


NewSource = Callable[..., S3Source]


@pytest_asyncio.fixture
async def new_source(server: UnrulyBucket) -> AsyncIterator[NewSource]:
    made: list[S3Source] = []

    def make(*allowed: str, **fields: Any) -> S3Source:
        made.append(S3Source(settings_for(server.url, *allowed, **fields), QUICK))
        return made[-1]

    yield make
    for source in made:
        await source.close()


async def fetch_weights(
    source: S3Source, adapter: RemoteAdapter, destination: Path, counted: list[int] | None = None
) -> bytes:
    on_bytes = [].append if counted is None else counted.append
    await source.download(adapter, adapter.files[1], destination, None, on_bytes)
    return destination.read_bytes()


# The first byte that a request asks for, as a fraction of the file.
def starts(bucket: UnrulyBucket) -> list[float]:
    return [
        0.0 if asked is None else int(asked.removeprefix("bytes=").rstrip("-")) / len(WEIGHTS)
        for asked in bucket.ranges
    ]


async def test_outside_the_allowed_places_nothing_is_asked(
    bucket: UnrulyBucket, new_source: NewSource
) -> None:
    source = new_source(f"{BUCKET}/team/other")
    for adapter_id in (ADAPTER_ID, "s3://bucket/x", f"{BUCKET}/team", f"{BUCKET}/team/other2"):
        with pytest.raises(NotFoundOrForbidden):
            await source.resolve(adapter_id, "token")
    assert bucket.num_connections == 0
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve(f"{BUCKET}/team/other", None)
    assert bucket.num_connections == 1  # so the count does count


@pytest.mark.parametrize(
    "extra_key",
    [
        "team/sql/../../adapter_config.json",
        "team/sql//adapter_config.json",
        "/etc/adapter_config.json",
        "adapter_config.json",
        "team/sql2/adapter_config.json",
        "team/sql/adapter_model-00001-of-00002.safetensors/../x",
        "team/sql/adapter_model-00001-of-00002.safetensors&#10;",
    ],
)
async def test_keys_that_lead_elsewhere_are_never_asked_for(
    bucket: UnrulyBucket, source: S3Source, extra_key: str
) -> None:
    bucket.faults["list"] = [
        lambda answer, content: answer.send_listing("team/sql/adapter_", (extra_key,))
    ]
    adapter = await source.resolve(ADAPTER_ID, None)
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert [file.name for file in adapter.files] == names
    assert bucket.requests[1:] == [("head", f"{BUCKET}/team/sql/{name}") for name in names]


@pytest.mark.parametrize("kind", ["list", "head", "get"])
@pytest.mark.parametrize(
    ("fault", "error", "num_tries"),
    [
        (status(401), NotFoundOrForbidden, 1),
        (status(403, "AccessDenied"), NotFoundOrForbidden, 1),
        (status(404, "NoSuchKey"), NotFoundOrForbidden, 1),
        (status(429, "TooManyRequests"), SourceUnavailable, 3),
        (status(500, "InternalError"), SourceUnavailable, 3),
        (status(503, "SlowDown"), SourceUnavailable, 3),
        (lambda answer, content: answer.reset(), SourceUnavailable, 3),
        (silence, SourceUnavailable, 3),
    ],
)
async def test_failures_before_the_first_byte(
    bucket: UnrulyBucket,
    impatient: S3Source,
    tmp_path: Path,
    kind: str,
    fault: Fault,
    error: type[SourceError],
    num_tries: int,
) -> None:
    adapter = await impatient.resolve(ADAPTER_ID, None)
    bucket.requests.clear()
    bucket.faults[kind] = [fault] * 3
    with pytest.raises(error):
        if kind == "get":
            await fetch_weights(impatient, adapter, tmp_path / "w")
        else:
            await impatient.resolve(ADAPTER_ID, None)
    assert bucket.count(kind) == num_tries
    bucket.faults.clear()
    assert await impatient.resolve(ADAPTER_ID, None) == adapter
    assert await fetch_weights(impatient, adapter, tmp_path / "w") == WEIGHTS


async def test_one_failure_is_survived(
    bucket: UnrulyBucket, source: S3Source, tmp_path: Path
) -> None:
    for kind in ("list", "head", "get"):
        bucket.faults[kind] = [status(503)]
    adapter = await source.resolve(ADAPTER_ID, None)
    assert await fetch_weights(source, adapter, tmp_path / "w") == WEIGHTS


async def test_retry_after_is_passed_on(bucket: UnrulyBucket, source: S3Source) -> None:
    bucket.faults["list"] = [status(429, Retry_After="17")]
    with pytest.raises(SourceUnavailable) as refused:
        await source.resolve(ADAPTER_ID, None)
    assert refused.value.retry_after == 17
    assert bucket.count("list") == 1  # longer than a caller is kept waiting


async def test_a_wrong_setting_is_nobodys_missing_adapter_either(
    bucket: UnrulyBucket, source: S3Source
) -> None:
    bucket.faults["list"] = [status(400, "InvalidRequest")] * 3
    with pytest.raises(SourceUnavailable, match="InvalidRequest"):
        await source.resolve(ADAPTER_ID, None)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
async def test_the_operators_own_mistake_is_nobodys_missing_adapter(
    bucket: UnrulyBucket, source: S3Source, code: str
) -> None:
    bucket.faults["list"] = [status(403, code)] * 3
    with pytest.raises(SourceUnavailable, match=code):
        await source.resolve(ADAPTER_ID, None)


async def test_a_refusal_is_told_to_the_operator_alone(
    bucket: UnrulyBucket, source: S3Source
) -> None:
    bucket.faults["list"] = [status(403, "AccessDenied")]
    with capture_logs() as logs, pytest.raises(NotFoundOrForbidden):
        await source.resolve(ADAPTER_ID, None)
    (line,) = logs
    assert (line["event"], line["bucket"]) == ("bucket_refused", BUCKET)
    assert line["reason"] == "status 403, AccessDenied"


@pytest.mark.parametrize("then", [reset, hang_up, stall])
async def test_an_interrupted_file_is_resumed(
    bucket: UnrulyBucket, impatient: S3Source, tmp_path: Path, then: Callable[..., None]
) -> None:
    adapter = await impatient.resolve(ADAPTER_ID, None)
    bucket.faults["get"] = [partial(0.5, then), partial(0.5, then)]
    counted: list[int] = []
    assert await fetch_weights(impatient, adapter, tmp_path / "w", counted) == WEIGHTS
    assert sum(counted) == len(WEIGHTS)
    assert bucket.conditions == [etag_of(WEIGHTS)] * 3
    first, second, third = starts(bucket)
    assert (first, second < third) == (0, True)
    if then is not reset:  # which may destroy what was not read yet
        assert (second, third) == (0.5, 0.75)


async def test_it_goes_on_at_what_is_already_there(
    bucket: UnrulyBucket, source: S3Source, tmp_path: Path
) -> None:
    adapter = await source.resolve(ADAPTER_ID, None)
    (tmp_path / "w").write_bytes(WEIGHTS[:777])
    counted: list[int] = []
    assert await fetch_weights(source, adapter, tmp_path / "w", counted) == WEIGHTS
    assert bucket.ranges == ["bytes=777-"] and sum(counted) == len(WEIGHTS) - 777
    assert await fetch_weights(source, adapter, tmp_path / "w") == WEIGHTS
    assert len(bucket.ranges) == 1


async def test_a_bucket_that_serves_no_parts_is_read_from_the_start(
    bucket: UnrulyBucket, source: S3Source, tmp_path: Path
) -> None:
    adapter = await source.resolve(ADAPTER_ID, None)
    (tmp_path / "w").write_bytes(b"?" * 500_000)
    bucket.faults["get"] = [whole(WEIGHTS)]
    counted: list[int] = []
    assert await fetch_weights(source, adapter, tmp_path / "w", counted) == WEIGHTS
    assert sum(counted) == len(WEIGHTS) - 500_000


async def test_an_endless_stall_ends(
    bucket: UnrulyBucket, impatient: S3Source, tmp_path: Path
) -> None:
    adapter = await impatient.resolve(ADAPTER_ID, None)
    bucket.faults["get"] = [partial(0.1, stall)] * 3
    with pytest.raises(SourceUnavailable):
        await fetch_weights(impatient, adapter, tmp_path / "w")
    assert starts(bucket) == pytest.approx([0, 0.1, 0.19])


@pytest.mark.parametrize("kind", ["list", "get"])
async def test_a_trickle_ends_at_the_deadline(
    bucket: UnrulyBucket, new_source: NewSource, tmp_path: Path, kind: str
) -> None:
    source = new_source(resolve_seconds=0.5, download_seconds=0.5, stall_seconds=10)
    adapter = await source.resolve(ADAPTER_ID, None)
    bucket.objects[""] = WEIGHTS  # what a listing would be cut from
    bucket.faults[kind] = [partial(0.1, trickle)]
    with pytest.raises(SourceUnavailable, match=r"not done within 0\.5 seconds"):
        if kind == "get":
            await fetch_weights(source, adapter, tmp_path / "w")
        else:
            await source.resolve(ADAPTER_ID, None)


@pytest.mark.parametrize(
    "fault",
    [
        whole(WEIGHTS + b"x"),
        whole(WEIGHTS[:-1]),
        whole(b""),
        whole(WEIGHTS[::-1], ETag=etag_of(WEIGHTS[::-1])),  # a store that heeds no If-Match
        status(412, "PreconditionFailed"),
    ],
)
async def test_other_bytes_than_announced_are_corrupt(
    bucket: UnrulyBucket, source: S3Source, tmp_path: Path, fault: Fault
) -> None:
    adapter = await source.resolve(ADAPTER_ID, None)
    (tmp_path / "w").write_bytes(WEIGHTS[:10])
    bucket.faults["get"] = [fault]
    with pytest.raises(SourceCorrupt):
        await fetch_weights(source, adapter, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    assert bucket.count("get") == 1


@pytest.mark.parametrize("length", ["none", "chunked"])
async def test_more_bytes_than_announced_are_never_all_taken(
    bucket: UnrulyBucket, source: S3Source, tmp_path: Path, length: str
) -> None:
    def endless(answer: Any, content: bytes) -> None:
        headers = {"ETag": etag_of(content)}
        if length == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        answer.start(200, headers)
        answer.close_connection = True
        while not answer.served.released.is_set():
            answer.wfile.write(b"%x\r\n" % len(content) + content + b"\r\n")

    adapter = await source.resolve(ADAPTER_ID, None)
    bucket.faults["get"] = [endless]
    counted: list[int] = []
    with pytest.raises(SourceCorrupt, match="more bytes"):
        await fetch_weights(source, adapter, tmp_path / "w", counted)
    assert sum(counted) <= len(WEIGHTS)


async def test_another_range_than_asked_for_is_corrupt(
    bucket: UnrulyBucket, source: S3Source, tmp_path: Path
) -> None:
    def shifted(answer: Any, content: bytes) -> None:
        part = {"Content-Range": f"bytes 9-{len(content) - 2}/{len(content)}"}
        answer.send_body(206, content[9:-1], {"ETag": etag_of(content), **part})

    adapter = await source.resolve(ADAPTER_ID, None)
    (tmp_path / "w").write_bytes(WEIGHTS[:10])
    bucket.faults["get"] = [shifted]
    with pytest.raises(SourceCorrupt, match="another range"):
        await fetch_weights(source, adapter, tmp_path / "w")


async def test_files_replaced_while_they_are_listed(bucket: UnrulyBucket, source: S3Source) -> None:
    def replaced(answer: Any, content: bytes) -> None:
        bucket.objects[WEIGHTS_KEY] = b"new weights"
        answer.send_object(content)

    bucket.faults["head"] = [replaced]  # between the heads of config and weights
    adapter = await source.resolve(ADAPTER_ID, None)
    assert bucket.count("list") == 2
    assert adapter.files[1].num_bytes == len(b"new weights")


@pytest.mark.parametrize("body", [b"<html>not S3</html>", b"", b"<ListBucketResult><Contents>"])
async def test_a_listing_that_makes_no_sense(
    bucket: UnrulyBucket, source: S3Source, body: bytes
) -> None:
    bucket.faults["list"] = [lambda answer, content: answer.send_body(200, body)] * 3
    with pytest.raises(SourceUnavailable):
        await source.resolve(ADAPTER_ID, None)


async def test_a_bucket_that_cannot_be_reached(bucket: UnrulyBucket, source: S3Source) -> None:
    """Refused, no such host, no TLS there."""
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid", "https" + bucket.url[4:]):
        broken = S3Source(settings_for(url), QUICK)
        with pytest.raises(SourceUnavailable):
            await broken.resolve(ADAPTER_ID, None)
        await broken.close()


async def test_a_hanging_bucket_is_waited_for_by_nobody_else(
    bucket: UnrulyBucket, new_source: NewSource
) -> None:
    source = new_source(BUCKET, "other", stall_seconds=20, threads_per_bucket=2)
    bucket.faults["list"] = [silence] * 5
    hanging = [asyncio.create_task(source.resolve(ADAPTER_ID, None)) for _ in range(5)]
    while bucket.count("list") < 2:  # all the threads that this bucket has
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert bucket.count("list") == 2
    bucket.faults.clear()
    assert await source.resolve("s3://other/team/sql", None)
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
    while bucket.count("get") < 1:
        await asyncio.sleep(0.01)
    assert await fetch_weights(source, adapter, tmp_path / "b") == WEIGHTS
    assert not stalled.done()
    stalled.cancel()
    await asyncio.wait([stalled])


async def test_who_gives_up_leaves_no_thread_behind(
    bucket: UnrulyBucket, new_source: NewSource, tmp_path: Path
) -> None:
    """The connection is cut, though the bucket may be silent for minutes more."""
    source = new_source(stall_seconds=600)
    adapter = await source.resolve(ADAPTER_ID, None)
    bucket.faults["get"] = [partial(0.5, stall)]
    task = asyncio.create_task(fetch_weights(source, adapter, tmp_path / "w"))
    while not bucket.count("get"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # now a thread reads, and gets nothing
    task.cancel()
    async with asyncio.timeout(10):  # far from the minutes that the bucket would take
        await asyncio.wait([task])
        while any("(work)" in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


async def test_no_secret_gets_out(
    bucket: UnrulyBucket,
    impatient: S3Source,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.WARNING)  # as the server sets it for libraries
    faults: list[Fault] = [
        status(403, "AccessDenied"),
        status(500),
        status(400, "secret-canary"),
        silence,
        lambda answer, content: answer.reset(),
        whole(b"secret-canary"),
    ]
    said: list[str] = [repr(impatient), repr(vars(impatient))]
    adapter = await impatient.resolve(ADAPTER_ID, TOKEN)
    with capture_logs() as logs:
        for kind in ("list", "head", "get"):
            for fault in faults:
                bucket.faults[kind] = [fault] * 3
                try:
                    await impatient.resolve(ADAPTER_ID, TOKEN)
                    await impatient.download(
                        adapter, adapter.files[1], tmp_path / "w", TOKEN, [].append
                    )
                except SourceError as error:
                    said += [repr(error), *traceback.format_exception(error)]
    said += [str(logs), caplog.text, *capfd.readouterr()]
    assert len(logs) >= 1 and len(said) > 20
    assert "canary" not in "".join(said).lower()
