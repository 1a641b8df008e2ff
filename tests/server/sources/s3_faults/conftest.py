"""An unruly bucket with an adapter in it, and sources of several tempers that read it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from lorax_serve.server.sources.s3 import S3Source
from moto_bucket import NewSource, settings_for
from unruly_adapter import CONFIG_KEY, WEIGHTS, WEIGHTS_KEY
from unruly_bucket import QUICK, UnrulyBucket, unruly_bucket


@pytest.fixture(scope="session")
def server() -> Iterator[UnrulyBucket]:
    with unruly_bucket(UnrulyBucket()) as served:
        yield served


@pytest.fixture
def bucket(server: UnrulyBucket) -> Iterator[UnrulyBucket]:
    server.begin({CONFIG_KEY: b"{}", WEIGHTS_KEY: WEIGHTS})
    yield server
    server.released.set()


# Making boto3's client takes longer than most tests, so those that can share one.
@pytest.fixture(scope="session")
def source(server: UnrulyBucket) -> S3Source:
    return S3Source(settings_for(server.url, stall_seconds=10), QUICK)


@pytest.fixture(scope="session")
def impatient(server: UnrulyBucket) -> S3Source:
    return S3Source(settings_for(server.url, stall_seconds=0.3), QUICK)


@pytest_asyncio.fixture
async def new_source(server: UnrulyBucket) -> AsyncIterator[NewSource]:
    made: list[S3Source] = []

    def make(*allowed: str, **fields: Any) -> S3Source:
        made.append(S3Source(settings_for(server.url, *allowed, **fields), QUICK))
        return made[-1]

    yield make
    for source in made:
        await source.close()
