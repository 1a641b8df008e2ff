"""Objects that change: a new revision, the version that was asked for, or a refusal."""

from dataclasses import replace
from pathlib import Path

import pytest

from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.s3_objects import S3File
from lorax_serve.server.sources.source import NotFoundOrForbidden, RemoteFile, SourceCorrupt
from moto_bucket import CONFIG, CONFIG_NAME, WEIGHTS, WEIGHTS_NAME, NewBucket, NewSource, fetched


async def test_the_revision_is_the_content(new_bucket: NewBucket, new_source: NewSource) -> None:
    bucket = new_bucket()
    source = new_source(bucket.name)
    adapter_id = f"{bucket.name}/team/sql"
    first = await source.resolve(adapter_id, None)
    bucket.put(f"team/sql/{WEIGHTS_NAME}", WEIGHTS)
    bucket.put("team/sql/README.md", b"new")
    assert await source.resolve(adapter_id, None) == first
    bucket.put(f"team/sql/{WEIGHTS_NAME}", WEIGHTS[::-1])
    second = await source.resolve(adapter_id, None)
    bucket.put(f"team/sql/{CONFIG_NAME}", CONFIG[::-1])
    third = await source.resolve(adapter_id, None)
    assert len({a.revision for a in (first, second, third)}) == 3


async def test_an_object_replaced_midway_is_never_mixed(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path
) -> None:
    bucket = new_bucket()
    source = new_source(bucket.name)
    adapter = await source.resolve(f"{bucket.name}/team/sql", None)
    weights = adapter.files[1]
    half = tmp_path / weights.name
    half.write_bytes(WEIGHTS[: len(WEIGHTS) // 2])
    bucket.put(f"team/sql/{WEIGHTS_NAME}", WEIGHTS[::-1])
    with pytest.raises(SourceCorrupt, match="replaced"):
        await source.download(adapter, weights, half, None, lambda n: None)
    assert not half.exists()


async def test_a_kept_version_is_still_served_whole(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path
) -> None:
    bucket = new_bucket(versioned=True)
    source = new_source(bucket.name)
    adapter_id = f"{bucket.name}/team/sql"
    adapter = await source.resolve(adapter_id, None)
    (tmp_path / WEIGHTS_NAME).write_bytes(WEIGHTS[:1000])
    bucket.put(f"team/sql/{WEIGHTS_NAME}", WEIGHTS[::-1])
    weights = adapter.files[1]
    counted: list[int] = []
    await source.download(adapter, weights, tmp_path / WEIGHTS_NAME, None, counted.append)
    assert (tmp_path / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert sum(counted) == len(WEIGHTS) - 1000
    assert (await source.resolve(adapter_id, None)).revision != adapter.revision


async def test_a_deleted_object_is_not_found(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path
) -> None:
    bucket = new_bucket()
    source = new_source(bucket.name)
    adapter = await source.resolve(f"{bucket.name}/team/sql", None)
    bucket.client.delete_object(Bucket=bucket.name, Key=f"team/sql/{WEIGHTS_NAME}")
    with pytest.raises(NotFoundOrForbidden):
        await source.download(adapter, adapter.files[1], tmp_path / "x", None, lambda n: None)


async def test_a_stored_digest_is_known_and_checked(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path
) -> None:
    bucket = new_bucket()
    bucket.put(f"team/sql/{WEIGHTS_NAME}", b"abc", ChecksumAlgorithm="SHA256")
    source = new_source(bucket.name)
    adapter = await source.resolve(f"{bucket.name}/team/sql", None)
    weights = adapter.files[1]
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (adapter.files[0].sha256, weights.sha256) == (None, digest)
    spoilt = tmp_path / WEIGHTS_NAME
    spoilt.write_bytes(b"x")
    with pytest.raises(SourceCorrupt, match="SHA-256"):
        await source.download(adapter, weights, spoilt, None, lambda n: None)
    assert not spoilt.exists()
    await source.download(adapter, weights, spoilt, None, lambda n: None)
    assert spoilt.read_bytes() == b"abc"


async def test_what_an_earlier_run_remembered_is_found_again(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path
) -> None:
    """From the disk come plain files, without the pins."""
    bucket = new_bucket()
    source = new_source(bucket.name, default=Location(bucket.name, "elsewhere"))
    found = await source.resolve(f"s3://{bucket.name}/team/sql", None)
    plain = tuple(RemoteFile(f.name, f.num_bytes, f.sha256) for f in found.files)
    remembered = replace(found, files=plain)
    assert set(await fetched(source, remembered, tmp_path)) == {CONFIG_NAME, WEIGHTS_NAME}
    bucket.put(f"team/sql/{WEIGHTS_NAME}", b"new")
    with pytest.raises(SourceCorrupt, match="replaced"):
        await source.download(remembered, plain[1], tmp_path / "x", None, lambda n: None)


def test_pins_are_part_of_a_file() -> None:
    file = S3File("adapter_config.json", 1, None, "b", "k", "e", None)
    assert file != replace(file, etag="f") and file != RemoteFile("adapter_config.json", 1, None)
