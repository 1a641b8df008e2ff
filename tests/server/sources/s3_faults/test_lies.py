"""Row 21 of the fault matrix for buckets: other keys, bytes or ranges than were agreed."""

from pathlib import Path
from typing import Any

import pytest

from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.source import SourceCorrupt, SourceUnavailable
from moto_bucket import BUCKET
from unruly_adapter import ADAPTER_ID, WEIGHTS, WEIGHTS_KEY, fetch_weights
from unruly_bucket import Fault, UnrulyBucket, etag_of, status, whole


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
