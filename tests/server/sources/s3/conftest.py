"""A real S3 service, buckets in it with an adapter each, and sources that read them."""

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.s3_settings import make_client
from moto_bucket import (
    CONFIG,
    CONFIG_NAME,
    WEIGHTS,
    WEIGHTS_NAME,
    Bucket,
    NewBucket,
    NewSource,
    moto_server,
    settings_for,
)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with moto_server() as served:
        yield served


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[Any]:
    made = make_client(settings_for(url))
    yield made
    made.close()


@pytest.fixture(scope="session")
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


@pytest_asyncio.fixture
async def new_source(url: str) -> AsyncIterator[NewSource]:
    made: list[S3Source] = []

    def make(*allowed: str, **fields: Any) -> S3Source:
        made.append(S3Source(settings_for(url, *allowed, **fields)))
        return made[-1]

    yield make
    for source in made:
        await source.close()
