"""Doors to the server: the published openai package, and adapters of a hub behind it."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from served_hub import Serve, serving_adapters
from wire import Wire


@pytest_asyncio.fixture
async def client(wire: Wire) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


@pytest.fixture
def serve(wire_files: Path, tmp_path: Path) -> Serve:
    return partial(serving_adapters, wire_files, tmp_path / "store")
