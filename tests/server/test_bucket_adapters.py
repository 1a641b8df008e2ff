"""Buckets and Predibase's gateway behind the store and the permissions: who gets which bytes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from fake_gateway import FakeGateway, fake_gateway
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.downloads import DownloadLimits
from lorax_serve.server.errors import ServeError
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.predibase import PredibaseSettings, PredibaseSource
from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.store.room import Quota
from moto_bucket import BUCKET, settings_for
from unruly_bucket import (
    QUICK,
    Fault,
    UnrulyBucket,
    etag_of,
    hang_up,
    partial,
    silence,
    status,
    trickle,
    unruly_bucket,
    whole,
)

OPEN_ID = f"s3://{BUCKET}/open/sql"
CLOSED_ID = "sql/2"
OPEN_WEIGHTS = "open/sql/adapter_model.safetensors"
WEIGHTS = bytes(range(256)) * 1000
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
NESTED_AND_ROOT = ("root/", "model/model_weights/", "results/model/model_weights/")
ALICE, BOB = "alice", "bob"


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    fake = FakeGateway(
        owners={"sql": {ALICE}, "other": {BOB}},
        versions={CLOSED_ID: {"status": "completed", "adapterPath": "uuid/run"}},
    )
    async with fake_gateway(fake) as served:
        yield served


@pytest.fixture
def bucket() -> UnrulyBucket:
    return UnrulyBucket(
        {
            f"{folder}/{name}": content
            for folder in ("open/sql", "closed/uuid/run")
            for name, content in (
                ("adapter_config.json", b"{}"),
                ("adapter_model.safetensors", WEIGHTS + folder.encode()),
            )
        }
    )


def make_adapters(
    bucket: UnrulyBucket, gateway: FakeGateway, folder: Path, *, with_templates: bool = False
) -> RemoteAdapters:
    s3 = settings_for(
        bucket.url, f"{BUCKET}/open", stall_seconds=0.5, with_templates=with_templates
    )
    closed = Location(BUCKET, "closed")
    predibase = PredibaseSettings(
        s3=replace(s3, allowed=(closed,), default=closed), gateway_url=gateway.url
    )
    sources = {"s3": S3Source(s3, QUICK), "pbase": PredibaseSource(predibase, QUICK)}
    store = AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0))
    return RemoteAdapters(sources, store, FetchLimits())


@pytest_asyncio.fixture
async def adapters(
    bucket: UnrulyBucket, gateway: FakeGateway, tmp_path: Path
) -> AsyncIterator[RemoteAdapters]:
    with unruly_bucket(bucket):
        made = make_adapters(bucket, gateway, tmp_path / "store")
        yield made
        await made.close()


def weights_of(lease: Lease) -> bytes:
    return (lease.path / "adapter_model.safetensors").read_bytes()


async def lease_of(
    adapters: RemoteAdapters,
    source: str,
    adapter_id: str,
    token: str | None = None,
    *,
    anew: bool = False,
) -> Lease:
    _, lease = await adapters.lease(source, adapter_id, token, anew=anew)
    return lease


async def refusal(
    adapters: RemoteAdapters, source: str, adapter_id: str, token: str | None = None
) -> ServeError:
    with pytest.raises(ServeError) as refused:
        await adapters.lease(source, adapter_id, token)
    return refused.value


async def test_fault_24_many_requests_are_one_download(
    adapters: RemoteAdapters, bucket: UnrulyBucket
) -> None:
    leases = await asyncio.gather(*(lease_of(adapters, "s3", OPEN_ID) for _ in range(100)))
    assert {weights_of(lease) for lease in leases} == {WEIGHTS + b"open/sql"}
    assert (bucket.count("list"), bucket.count("get")) == (1, 2)


async def test_a_failed_download_goes_on_at_the_next_request(
    adapters: RemoteAdapters, bucket: UnrulyBucket
) -> None:
    """Though the bucket names no SHA-256: an ETag pins what this process has begun."""
    config, cut = partial(1, lambda answer: None), partial(0.5, hang_up)
    bucket.faults["get"] = [config, cut, cut, cut]  # as often as it is tried
    error = await refusal(adapters, "s3", OPEN_ID)
    assert error.code is ErrorCode.ADAPTER_UNAVAILABLE
    bucket.ranges.clear()
    lease = await lease_of(adapters, "s3", OPEN_ID)
    assert weights_of(lease) == WEIGHTS + b"open/sql"
    num_bytes = len(WEIGHTS + b"open/sql")
    assert bucket.ranges == [f"bytes={num_bytes - num_bytes // 8}-"], "the config is here as well"
    assert set(bucket.conditions) == {etag_of(b"{}"), etag_of(WEIGHTS + b"open/sql")}


async def test_what_is_left_of_another_version_is_not_gone_on_with(
    adapters: RemoteAdapters, bucket: UnrulyBucket
) -> None:
    config, cut = partial(1, lambda answer: None), partial(0.5, hang_up)
    bucket.faults["get"] = [config, cut, cut, cut]
    await refusal(adapters, "s3", OPEN_ID)
    bucket.objects[OPEN_WEIGHTS] = WEIGHTS[::-1]
    bucket.ranges.clear()
    lease = await lease_of(adapters, "s3", OPEN_ID, anew=True)
    assert weights_of(lease) == WEIGHTS[::-1]
    assert bucket.ranges == [None, None]


async def test_what_alice_may_have_is_nothing_to_others(adapters: RemoteAdapters) -> None:
    """While it is here; and neither its folder nor its revision opens it by way of s3."""
    lease = await lease_of(adapters, "pbase", CLOSED_ID, ALICE)
    assert weights_of(lease) == WEIGHTS + b"closed/uuid/run"
    texts = {
        (await refusal(adapters, "pbase", CLOSED_ID, BOB)).message,
        (await refusal(adapters, "pbase", CLOSED_ID, None)).message,
    }
    assert texts == {f"Model '{CLOSED_ID}' does not exist."}
    for adapter_id in (f"{BUCKET}/closed/uuid/run", f"s3://{BUCKET}/closed/uuid/run"):
        error = await refusal(adapters, "s3", adapter_id, ALICE)
        assert (error.code, error.message) == (
            ErrorCode.MODEL_NOT_FOUND,
            f"Model '{adapter_id}' does not exist.",
        )


async def test_an_untrained_adapter_is_refused_with_a_message(
    adapters: RemoteAdapters, gateway: FakeGateway
) -> None:
    gateway.versions[CLOSED_ID]["status"] = "queued"
    error = await refusal(adapters, "pbase", CLOSED_ID, ALICE)
    assert "its status is queued" in error.message
    gateway.versions[CLOSED_ID]["status"] = "training"
    assert await lease_of(adapters, "pbase", CLOSED_ID, ALICE)  # at once


async def test_fault_18_after_a_replacement_the_next_request_gets_the_new_bytes(
    adapters: RemoteAdapters, bucket: UnrulyBucket
) -> None:
    bucket.faults["get"] = [status(503)] * 3  # resolved, but not fetched
    error = await refusal(adapters, "s3", OPEN_ID)
    assert error.code is ErrorCode.ADAPTER_UNAVAILABLE
    bucket.objects[OPEN_WEIGHTS] = b"new"
    assert (await refusal(adapters, "s3", OPEN_ID)).code is ErrorCode.ADAPTER_INTEGRITY
    assert weights_of(await lease_of(adapters, "s3", OPEN_ID)) == b"new"


@pytest.mark.parametrize("fault", [silence, status(500)])
async def test_fault_22_after_a_restart_without_the_bucket(
    bucket: UnrulyBucket, gateway: FakeGateway, tmp_path: Path, fault: Fault
) -> None:
    """Open adapters that are here are served, Alice's are not: nobody can prove a thing."""
    with unruly_bucket(bucket):
        before = make_adapters(bucket, gateway, tmp_path / "store")
        await lease_of(before, "s3", OPEN_ID)
        await lease_of(before, "pbase", CLOSED_ID, ALICE)
        await before.close()
        bucket.faults["list"] = [fault] * 6
        after = make_adapters(bucket, gateway, tmp_path / "store")
        assert weights_of(await lease_of(after, "s3", OPEN_ID)) == WEIGHTS + b"open/sql"
        error = await refusal(after, "pbase", CLOSED_ID, ALICE)
        assert error.code is ErrorCode.ADAPTER_UNAVAILABLE
        await after.close()


async def test_ludwigs_folders_are_listed_only_where_the_root_has_no_config(
    adapters: RemoteAdapters, bucket: UnrulyBucket
) -> None:
    files = {name: bucket.objects[f"open/sql/{name}"] for name in ADAPTER_FILES}
    bucket.begin(
        {f"open/{folder}{name}": b for folder in NESTED_AND_ROOT for name, b in files.items()}
    )
    for num_lists, name in ((1, "root"), (2, "model"), (3, "results")):
        bucket.requests.clear()
        lease = await lease_of(adapters, "s3", f"s3://{BUCKET}/open/{name}")
        assert weights_of(lease) == files["adapter_model.safetensors"]
        assert (bucket.count("list"), bucket.count("head")) == (num_lists, 2)


async def test_weights_in_ludwigs_folder_are_missing_beside_a_config_at_the_root(
    adapters: RemoteAdapters, bucket: UnrulyBucket
) -> None:
    weights = bucket.objects.pop(OPEN_WEIGHTS)
    bucket.objects["open/sql/model_weights/adapter_model.safetensors"] = weights
    error = await refusal(adapters, "s3", OPEN_ID)
    assert error.code is ErrorCode.ADAPTER_INCOMPATIBLE
    assert "must have adapter_config.json and adapter_model.safetensors" in error.message
    assert bucket.count("get") == 0
    bucket.objects["open/none/model_weights/adapter_model.safetensors"] = weights
    error = await refusal(adapters, "s3", f"s3://{BUCKET}/open/none")
    assert error.code is ErrorCode.MODEL_NOT_FOUND


async def test_a_bucket_that_drips_is_given_up_and_gone_on_with(
    bucket: UnrulyBucket, tmp_path: Path
) -> None:
    """Its own deadline would be minutes, and the thread that reads is waited for by nobody."""
    bucket.objects[OPEN_WEIGHTS] = weights = b"x" * 10_000  # what a trickle sends
    slow = DownloadLimits(least_rate=1000, pace_seconds=0.3)
    store = AdapterStore(tmp_path, Quota(max_bytes=2**30, free_share=0, free_bytes=0))
    with unruly_bucket(bucket):
        s3 = S3Source(settings_for(bucket.url, f"{BUCKET}/open"), QUICK)
        adapters = RemoteAdapters({"s3": s3}, store, FetchLimits(downloads=slow))
        bucket.faults["get"] = [whole(b"{}"), partial(0.01, trickle)]
        async with asyncio.timeout(10):
            assert (await refusal(adapters, "s3", OPEN_ID)).code is ErrorCode.ADAPTER_UNAVAILABLE
            assert bucket.count("get") == 2, "nor is it asked again for the same request"
            assert weights_of(await lease_of(adapters, "s3", OPEN_ID)) == weights
        start = int((bucket.ranges[-1] or "")[6:-1])
        assert 100 < start < 400, "it went on from what had come"
        bucket.released.set()
        await adapters.close()


@pytest.mark.parametrize(
    ("source", "name", "folder"),
    [("s3", OPEN_ID, "open/sql"), ("pbase", CLOSED_ID, "closed/uuid/run")],
)
async def test_chat_templates_come_along_where_they_are_wanted(
    bucket: UnrulyBucket,
    gateway: FakeGateway,
    tmp_path: Path,
    source: str,
    name: str,
    folder: str,
) -> None:
    bucket.objects[f"{folder}/chat_template.jinja"] = b"first"
    bucket.objects[f"{folder}/chat_template.jinja.bak"] = b"never"
    bucket.objects[f"{folder}/tokenizer_config.json"] = b"{}"
    with unruly_bucket(bucket):
        made = make_adapters(bucket, gateway, tmp_path / "store")
        bare = (await lease_of(made, source, name, ALICE)).path
        assert sorted(path.name for path in bare.iterdir()) == list(ADAPTER_FILES)
        await made.close()
        made = make_adapters(bucket, gateway, tmp_path / "store", with_templates=True)
        first = await lease_of(made, source, name, ALICE)
        assert sorted(path.name for path in first.path.iterdir()) == [
            *ADAPTER_FILES,
            "chat_template.jinja",
            "tokenizer_config.json",
        ]
        bucket.objects[f"{folder}/chat_template.jinja"] = b"other"
        again = await lease_of(made, source, name, ALICE, anew=True)
        assert (again.path / "chat_template.jinja").read_bytes() == b"other"
        assert again.digest != first.digest
        await made.close()
