"""A gateway that knows one adapter, buckets in a real S3 service, and the source of both."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from fake_gateway import ADAPTER_ID, ALICE, BOB, FOLDER, FakeGateway, fake_gateway
from lorax_serve.server.sources.predibase import PredibaseSettings, PredibaseSource
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.s3_settings import S3Settings, make_client
from moto_bucket import BUCKET, Bucket, moto_server, settings_for
from unruly_bucket import QUICK


@pytest.fixture(scope="module")
def s3_settings() -> Iterator[S3Settings]:
    with moto_server() as url:
        client = make_client(settings_for(url))
        bucket = Bucket(client)
        for folder in (f"models/{FOLDER}", "private/x", "models/new"):
            bucket.put(f"{folder}/adapter_config.json", b"{}")
            bucket.put(f"{folder}/adapter_model.safetensors", folder.encode())
        client.close()
        yield settings_for(url, f"{BUCKET}/models", default=Location(BUCKET, "models"))


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    fake = FakeGateway(
        owners={"sql": {ALICE}, "other": {BOB}},
        versions={ADAPTER_ID: {"status": "completed", "adapterPath": f"{FOLDER}/", "id": 7}},
        runs={"sql": {"uuid": "uuid-1", "bestRunID": "run-1", "status": "ready"}},
    )
    async with fake_gateway(fake) as served:
        yield served


@pytest_asyncio.fixture
async def source(gateway: FakeGateway, s3_settings: S3Settings) -> AsyncIterator[PredibaseSource]:
    made = PredibaseSource(
        PredibaseSettings(
            s3=s3_settings, gateway_url=gateway.url, stall_seconds=0.3, resolve_seconds=1.5
        ),
        QUICK,
    )
    yield made
    await made.close()
