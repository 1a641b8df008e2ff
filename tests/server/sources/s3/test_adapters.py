"""Adapters in a real S3 service: which files of which folders they are. For faults: s3_faults/."""

from dataclasses import replace
from pathlib import Path

import pytest

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.layout import NESTED_FOLDERS
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.source import NotFoundOrForbidden, RemoteFile, SourceCorrupt
from moto_bucket import CONFIG, CONFIG_NAME, WEIGHTS, WEIGHTS_NAME, NewBucket, NewSource, fetched


@pytest.mark.parametrize("versioned", [False, True])
async def test_an_adapter_is_found_and_fetched(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path, versioned: bool
) -> None:
    bucket = new_bucket(versioned=versioned)
    source = new_source(bucket.name)
    adapter = await source.resolve(f"s3://{bucket.name}/team/sql", None)
    assert (adapter.source, adapter.repository) == ("s3", f"s3://{bucket.name}/team/sql")
    assert adapter.public
    sizes = {file.name: file.num_bytes for file in adapter.files}
    assert sizes == {CONFIG_NAME: len(CONFIG), WEIGHTS_NAME: len(WEIGHTS)}
    assert await source.resolve(f"{bucket.name}/team/sql/", "any token") == adapter
    assert await fetched(source, adapter, tmp_path) == {CONFIG_NAME: CONFIG, WEIGHTS_NAME: WEIGHTS}


async def test_names_below_the_default_folder(new_bucket: NewBucket, new_source: NewSource) -> None:
    bucket = new_bucket()
    source = new_source(bucket.name, default=Location(bucket.name, "team"))
    assert (await source.resolve("sql", None)).repository == f"s3://{bucket.name}/team/sql"


async def test_only_the_fixed_names_directly_in_the_folder_count(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path
) -> None:
    bucket = new_bucket()
    shards = [f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in (
        *shards,
        "adapter_model.bin",
        "adapter_model.safetensors.index.json",
        "adapter_model-1-of-2.safetensors",
        "adapter_config.json/adapter_config.json",
        "adapter_x/../../adapter_config.json",
        "../adapter_config.json",
        "sub/adapter_config.json",
        "README.md",
    ):
        bucket.put(f"team/sql/{name}", b"x")
    bucket.put("team/sql2/adapter_config.json", b"x")
    source = new_source(bucket.name)
    adapter = await source.resolve(f"{bucket.name}/team/sql", None)
    assert {file.name for file in adapter.files} == {CONFIG_NAME, WEIGHTS_NAME, *shards}
    assert set(await fetched(source, adapter, tmp_path)) == {CONFIG_NAME, WEIGHTS_NAME, *shards}


async def test_a_folder_with_pickles_only_is_found_without_files(
    new_bucket: NewBucket, new_source: NewSource
) -> None:
    bucket = new_bucket()
    bucket.put("old/adapter_model.bin", b"pickle")
    assert (await new_source(bucket.name).resolve(f"{bucket.name}/old", None)).files == ()


@pytest.mark.parametrize("inner", NESTED_FOLDERS)
async def test_ludwigs_layout(
    new_bucket: NewBucket, new_source: NewSource, tmp_path: Path, inner: str
) -> None:
    bucket = new_bucket()
    bucket.put(f"trained/{inner}{CONFIG_NAME}", CONFIG)
    bucket.put(f"trained/{inner}{WEIGHTS_NAME}", WEIGHTS[::-1])
    bucket.put(f"trained/{inner}README.md", b"x")
    bucket.put(f"trained/{WEIGHTS_NAME}", b"root's")
    bucket.put("trained/model/training_checkpoints/adapter_model.safetensors", b"x")
    source = new_source(bucket.name)
    adapter = await source.resolve(f"{bucket.name}/trained", None)
    assert adapter.repository == f"s3://{bucket.name}/trained"
    wanted = {CONFIG_NAME: CONFIG, WEIGHTS_NAME: WEIGHTS[::-1]}
    assert await fetched(source, adapter, tmp_path) == wanted
    plain = tuple(RemoteFile(f.name, f.num_bytes, f.sha256) for f in adapter.files)
    again, root = tmp_path / "again", tmp_path / "root"
    again.mkdir()
    root.mkdir()
    assert await fetched(source, replace(adapter, files=plain), again) == wanted
    bucket.put(f"trained/{CONFIG_NAME}", CONFIG)  # from now on the root is the adapter
    adapter = await source.resolve(f"{bucket.name}/trained", None)
    assert await fetched(source, adapter, root) == {CONFIG_NAME: CONFIG, WEIGHTS_NAME: b"root's"}


async def test_ludwigs_folders_are_for_what_the_root_lacks_altogether(
    new_bucket: NewBucket, new_source: NewSource
) -> None:
    bucket = new_bucket()
    for key in (
        f"weightless/{CONFIG_NAME}",
        f"weightless/model_weights/{WEIGHTS_NAME}",
        f"configless/model_weights/{WEIGHTS_NAME}",
        f"elsewhere/weights/{CONFIG_NAME}",
    ):
        bucket.put(key, b"x")
    source = new_source(bucket.name)
    weightless = await source.resolve(f"{bucket.name}/weightless", None)
    assert [file.name for file in weightless.files] == [CONFIG_NAME]
    for name in ("configless", "elsewhere"):
        with pytest.raises(NotFoundOrForbidden, match="nothing there is called like an adapter"):
            await source.resolve(f"{bucket.name}/{name}", None)


async def test_too_many_shards(new_bucket: NewBucket, new_source: NewSource) -> None:
    bucket = new_bucket()
    for number in range(67):
        bucket.put(f"many/adapter_model-{number:05}-of-00070.safetensors", b"x")
    with pytest.raises(SourceCorrupt, match="more than 66"):
        await new_source(bucket.name).resolve(f"{bucket.name}/many", None)


async def test_absent_and_not_allowed_look_the_same(
    new_bucket: NewBucket, new_source: NewSource
) -> None:
    bucket, other = new_bucket(), new_bucket()
    source = new_source(f"{bucket.name}/team", "no-such-bucket")
    for adapter_id in (
        f"{bucket.name}/team/absent",
        f"{bucket.name}/team2",
        f"{bucket.name}/{CONFIG_NAME}",
        f"{other.name}/team/sql",
        "no-such-bucket/team/sql",
    ):
        source.check_id(adapter_id)
        with pytest.raises(NotFoundOrForbidden):
            await source.resolve(adapter_id, None)
    with pytest.raises(ServeError) as malformed:
        source.check_id("../team/sql")
    assert malformed.value.code is ErrorCode.INVALID_REQUEST
