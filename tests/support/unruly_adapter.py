"""One adapter in an unruly bucket, and how its weights were fetched from there."""

from pathlib import Path

from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.source import RemoteAdapter
from moto_bucket import BUCKET
from unruly_bucket import UnrulyBucket

ADAPTER_ID = f"s3://{BUCKET}/team/sql"
CONFIG_KEY = "team/sql/adapter_config.json"
WEIGHTS_KEY = "team/sql/adapter_model.safetensors"
WEIGHTS = bytes(range(256)) * 4000  # one megabyte


async def fetch_weights(
    source: S3Source, adapter: RemoteAdapter, destination: Path, counted: list[int] | None = None
) -> bytes:
    on_bytes = [].append if counted is None else counted.append
    await source.download(adapter, adapter.files[1], destination, None, on_bytes)
    return destination.read_bytes()


def starts(bucket: UnrulyBucket) -> list[float]:
    """The first byte that each request asked for, as a fraction of the file."""
    return [
        0.0 if asked is None else int(asked.removeprefix("bytes=").rstrip("-")) / len(WEIGHTS)
        for asked in bucket.ranges
    ]
