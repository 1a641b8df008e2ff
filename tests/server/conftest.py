from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from wire import Wire, running, write_files


@pytest.fixture(scope="session")
def wire_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("wire"))


@pytest_asyncio.fixture
async def wire(wire_files: Path) -> AsyncIterator[Wire]:
    async with running(wire_files) as served:
        yield served
