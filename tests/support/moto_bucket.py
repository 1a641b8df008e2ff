"""A real S3 service on the loopback interface: moto's server, spoken to by boto3 over HTTP."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moto.server import ThreadedMotoServer

from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.s3_location import parse_place
from lorax_serve.server.sources.s3_settings import S3Credentials, S3Settings
from lorax_serve.server.sources.source import RemoteAdapter

BUCKET = "adapters"


CREDENTIALS = S3Credentials(
    access_key_id="AKIDCANARY", secret_access_key="secret-canary", session_token="session-canary"
)


@contextmanager
def moto_server() -> Iterator[str]:
    """The server's URL."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def settings_for(url: str, *allowed: str, **fields: Any) -> S3Settings:
    places = tuple(map(parse_place, allowed or (BUCKET,)))
    return S3Settings(allowed=places, endpoint_url=url, credentials=CREDENTIALS, **fields)


class Bucket:
    """The operator's own hands in a new bucket. `client` is boto3's."""

    def __init__(self, client: Any, name: str = BUCKET, *, versioned: bool = False) -> None:
        self.name = name
        self.client = client
        self.client.create_bucket(Bucket=name)
        if versioned:
            enabled = {"Status": "Enabled"}
            self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration=enabled)

    def put(self, key: str, content: bytes, **fields: str) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content, **fields)


CONFIG = b'{"r": 8}'
WEIGHTS = bytes(range(256)) * 12_000  # three megabytes
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


NewBucket = Callable[..., Bucket]


NewSource = Callable[..., S3Source]


async def fetched(source: S3Source, adapter: RemoteAdapter, folder: Path) -> dict[str, bytes]:
    for file in adapter.files:
        counted: list[int] = []
        await source.download(adapter, file, folder / file.name, None, counted.append)
        assert sum(counted) == file.num_bytes
    return {path.name: path.read_bytes() for path in folder.iterdir()}
