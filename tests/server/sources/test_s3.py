"""Against a real S3 service. Faults are in test_s3_faults.py."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from botocore import UNSIGNED

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.sources.layout import NESTED_FOLDERS
from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.s3_objects import S3File
from lorax_serve.server.sources.s3_settings import S3Settings, make_client, r2_endpoint
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteAdapter,
    RemoteFile,
    SourceCorrupt,
)
from moto_bucket import CREDENTIALS, Bucket, moto_server, settings_for

CONFIG = b'{"r": 8}'
WEIGHTS = bytes(range(256)) * 12_000  # three megabytes
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with moto_server() as served:
        yield served


NewBucket = Callable[..., Bucket]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    made = make_client(settings_for(url))
    yield made
    made.close()


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def new_bucket(client: Any, numbers: Iterator[int]) -> NewBucket:
    """Makes buckets with an adapter in team/sql."""

    def make(*, versioned: bool = False) -> Bucket:
        bucket = Bucket(client, f"bucket-{next(numbers)}", versioned=versioned)
        bucket.put(f"team/sql/{CONFIG_NAME}", CONFIG)
        bucket.put(f"team/sql/{WEIGHTS_NAME}", WEIGHTS)
        return bucket

    return make


NewSource = Callable[..., S3Source]


@pytest_asyncio.fixture
async def new_source(url: str) -> AsyncIterator[NewSource]:
    made: list[S3Source] = []

    def make(*allowed: str, **fields: Any) -> S3Source:
        made.append(S3Source(settings_for(url, *allowed, **fields)))
        return made[-1]

    yield make
    for source in made:
        await source.close()


async def fetched(source: S3Source, adapter: RemoteAdapter, folder: Path) -> dict[str, bytes]:
    for file in adapter.files:
        counted: list[int] = []
        await source.download(adapter, file, folder / file.name, None, counted.append)
        assert sum(counted) == file.num_bytes
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    kinds = set()
    for adapter_id in (
        f"{bucket.name}/team/absent",
        f"{bucket.name}/team2",
        f"{bucket.name}/{CONFIG_NAME}",
        f"{other.name}/team/sql",
        "no-such-bucket/team/sql",
    ):
        source.check_id(adapter_id)
        with pytest.raises(NotFoundOrForbidden) as refused:
            await source.resolve(adapter_id, None)
        kinds.add(isinstance(refused.value, NotFoundOrForbidden))
    assert kinds == {True}
    with pytest.raises(ServeError) as malformed:
        source.check_id("../team/sql")
    assert malformed.value.code is ErrorCode.INVALID_REQUEST


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


async def test_nothing_allowed_makes_no_client() -> None:
    """And so needs no credentials, no region and no network."""
    source = S3Source(S3Settings(endpoint_url="not a URL"))
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve("s3://bucket/team/sql", None)
    await source.close()


def test_settings_that_make_no_client_end_the_start() -> None:
    with pytest.raises(StartError, match="S3 settings"):
        S3Source(S3Settings(allowed=(Location("bucket", ""),), endpoint_url="not a URL"))
    with pytest.raises(StartError, match="R2"):
        r2_endpoint("evil.example/")
    assert r2_endpoint("abc123") == "https://abc123.r2.cloudflarestorage.com"


def test_the_surroundings_change_nothing_unless_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDAMBIENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    given = make_client(S3Settings(credentials=CREDENTIALS))
    unsigned = make_client(S3Settings())
    assert given._request_signer._credentials.access_key == "AKIDCANARY"
    assert unsigned.meta.config.signature_version is UNSIGNED
    for client in (given, unsigned):
        assert client.meta.region_name == "us-east-1"
        assert client.meta.endpoint_url == "https://s3.amazonaws.com"
        client.close()
    monkeypatch.delenv("AWS_PROFILE")
    chained = make_client(S3Settings(use_aws_chain=True, region="eu-west-3"))
    assert chained._request_signer._credentials.access_key == "AKIDAMBIENT"
    assert chained.meta.region_name == "eu-west-3"
    chained.close()
    both = make_client(S3Settings(use_aws_chain=True, credentials=CREDENTIALS))
    assert both._request_signer._credentials.access_key == "AKIDCANARY"
    assert both.meta.region_name == "eu-west-1"
    both.close()


def test_no_secret_is_in_a_repr() -> None:
    shown = repr(settings_for("http://127.0.0.1:9")) + str(CREDENTIALS)
    assert "canary" not in shown.lower()


def test_pins_are_part_of_a_file() -> None:
    file = S3File("adapter_config.json", 1, None, "b", "k", "e", None)
    assert file != replace(file, etag="f") and file != RemoteFile("adapter_config.json", 1, None)
