"""Row 21 of the fault matrix for buckets: downloads that stall, trickle or are cut off."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.source import SourceUnavailable
from moto_bucket import NewSource
from unruly_adapter import ADAPTER_ID, WEIGHTS, fetch_weights, starts
from unruly_bucket import UnrulyBucket, etag_of, hang_up, partial, reset, stall, trickle, whole


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
    adapter = await new_source().resolve(ADAPTER_ID, None)  # as slow as the machine may be
    source = new_source(resolve_seconds=0.5, download_seconds=0.5, stall_seconds=10)
    bucket.objects[""] = WEIGHTS  # what a listing would be cut from
    bucket.faults[kind] = [partial(0.1, trickle)]
    with pytest.raises(SourceUnavailable, match=r"not done within 0\.5 seconds"):
        if kind == "get":
            await fetch_weights(source, adapter, tmp_path / "w")
        else:
            await source.resolve(ADAPTER_ID, None)
