"""Where a redirect may lead: never into our networks, never away from TLS."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from lorax_serve.server.sources.http_session import open_session

PUBLIC = "http://1.1.1.1"  # is never connected to


class Redirecting:
    """A server that sends on to `target`, and counts who arrives at /private."""

    def __init__(self) -> None:
        self.target = "/private"
        self.num_arrived = 0
        self.app = web.Application()
        self.app.router.add_get("/", self._redirect)
        self.app.router.add_get("/private", self._private)

    async def _redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(self.target)

    async def _private(self, request: web.Request) -> web.Response:
        self.num_arrived += 1
        return web.Response()


@pytest_asyncio.fixture
async def redirecting() -> AsyncIterator[tuple[Redirecting, TestServer]]:
    made = Redirecting()
    async with TestServer(made.app) as server:
        yield made, server


async def arrives(endpoint: str, redirecting: tuple[Redirecting, TestServer]) -> bool:
    """Whether a session for `endpoint` follows the redirect."""
    made, server = redirecting
    async with open_session(endpoint, stall_seconds=1) as session:
        try:
            async with session.get(server.make_url("/")):
                pass
        except aiohttp.ClientError:
            assert made.num_arrived == 0
    return made.num_arrived > 0


async def test_a_host_of_ours_may_send_us_around_in_our_networks(
    redirecting: tuple[Redirecting, TestServer],
) -> None:
    made, server = redirecting
    for target in ("/private", f"http://127.0.0.1:{server.port}/private"):
        made.target, made.num_arrived = target, 0
        assert await arrives(f"http://127.0.0.1:{server.port}", redirecting)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_a_host_of_the_internet_may_not(
    redirecting: tuple[Redirecting, TestServer], host: str
) -> None:
    made, server = redirecting
    made.target = f"http://{host}:{server.port}/private"
    assert not await arrives(PUBLIC, redirecting)


async def test_nor_by_a_path(redirecting: tuple[Redirecting, TestServer]) -> None:
    assert not await arrives(PUBLIC, redirecting)


async def test_https_stays_https(redirecting: tuple[Redirecting, TestServer]) -> None:
    made, _ = redirecting
    assert not await arrives("https://127.0.0.1", redirecting)
    for target in ("file:///etc/passwd", "http://[", "http://x:y/", ""):
        made.target = target
        assert not await arrives("http://127.0.0.1", redirecting)
