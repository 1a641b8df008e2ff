"""A gateway that fails, stalls or makes no sense: three tries, an end, and no one else held up."""

import asyncio

import pytest

from fake_gateway import (
    ADAPTER_ID,
    ALICE,
    FakeGateway,
    Reply,
    endless,
    reset,
    silence,
    status,
    text,
    trickle,
)
from lorax_serve.server.sources.predibase import PredibaseSource
from lorax_serve.server.sources.source import SourceUnavailable
from waiting import until


@pytest.mark.parametrize(
    "reply",
    [
        status(400),
        status(429),
        status(500),
        status(503),
        status(302, Location="/base/v2/repos/sql/version/2"),
        reset,
        silence,
        text("<html>"),
        text("[]"),
        text('{"adapterPath": 7}'),
        text("[" * 30_000),
        text("{}" + " " * 2**17),
        endless,
    ],
)
async def test_failures_of_the_gateway(
    source: PredibaseSource, gateway: FakeGateway, reply: Reply
) -> None:
    gateway.replies = [reply] * 9
    with pytest.raises(SourceUnavailable):
        await source.resolve(ADAPTER_ID, ALICE)
    assert set(gateway.requests) == {"/base/v2/repos/sql/version/2"}
    # aiohttp itself asks once more when a connection that it kept turns out to be closed.
    allowed = range(3, 7) if reply is reset else (3,)
    assert len(gateway.requests) in allowed
    gateway.replies = [status(503)]
    assert (await source.resolve(ADAPTER_ID, ALICE)).files  # one failure is survived


async def test_retry_after_is_passed_on(source: PredibaseSource, gateway: FakeGateway) -> None:
    gateway.replies = [status(429, Retry_After="30")]
    with pytest.raises(SourceUnavailable) as refused:
        await source.resolve(ADAPTER_ID, ALICE)
    assert (refused.value.retry_after, len(gateway.requests)) == (30, 1)


async def test_a_trickle_ends_at_the_deadline(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    gateway.replies = [trickle]
    with pytest.raises(SourceUnavailable, match="not done within"):
        await source.resolve(ADAPTER_ID, ALICE)


async def test_a_hanging_answer_holds_up_no_other_caller(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    gateway.replies = [silence]
    hanging = asyncio.create_task(source.resolve(ADAPTER_ID, ALICE))
    await until(lambda: gateway.requests)
    gateway.owners["sql"].add("carol")
    await source.resolve(ADAPTER_ID, "carol")
    assert gateway.tokens[:2] == [f"Bearer {ALICE}", "Bearer carol"]
    assert (await hanging).files
