"""EngineClient against the engine's own end of a real link, driven by hand from the test."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

import stub_engine
from lorax_serve.ipc.adapter_report import AdapterReport, TierUse
from lorax_serve.ipc.link import EngineLink, FrontendId, FrontendLink, LinkError
from lorax_serve.ipc.messages import (
    Abort,
    AdapterAction,
    AdapterCommand,
    AdapterReply,
    Generate,
    Hello,
    Pool,
    PromptPooled,
    RequestEvent,
    RequestFailed,
    StepEvents,
    ToEngine,
    ToFrontend,
    TokensGenerated,
)
from lorax_serve.ipc.types import (
    AdapterRef,
    ErrorCode,
    FinishReason,
    Pooling,
    PromptStats,
    RequestId,
    SamplingParams,
    StopConditions,
)
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.errors import EngineLost, ServeError

SECONDS = 20.0  # that no test needs


class Ends:
    """The client under test, and the engine's end of its link."""

    def __init__(self, endpoint: str) -> None:
        self.engine = EngineLink(endpoint)
        self.link = FrontendLink(endpoint)
        self.client = EngineClient(self.link, stub_engine.INFO)
        self._frontend: FrontendId = b""
        self._received: list[ToEngine] = []

    async def next(self) -> ToEngine:
        """What the client sent next."""
        if not self._received:
            for frontend, message in await asyncio.to_thread(self.engine.receive, SECONDS):
                self._frontend = frontend
                self._received.append(message)
        return self._received.pop(0)

    async def nothing_more(self) -> bool:
        """Whether the client has sent nothing since; messages cannot overtake each other."""
        self.link.send(Hello("marker"))
        return await self.next() == Hello("marker")

    def say(self, *events: RequestEvent) -> None:
        assert self.engine.send(self._frontend, StepEvents(list(events)))

    def answer(self, message: ToFrontend) -> None:
        assert self.engine.send(self._frontend, message)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    with tempfile.TemporaryDirectory(prefix="client-") as folder:
        ends = Ends(f"ipc://{Path(folder) / 'engine.sock'}")
        running = asyncio.create_task(ends.client.run())
        yield ends
        running.cancel()
        ends.link.close()
        ends.engine.close()


def request(name: str = "r") -> Generate:
    return Generate(RequestId(name), [10, 11], SamplingParams(), StopConditions(max_new_tokens=4))


def tokens(name: str, *ids: int, last: bool = False) -> TokensGenerated:
    return TokensGenerated(RequestId(name), list(ids), FinishReason.LENGTH if last else None)


async def test_a_request_yields_its_events_and_ends_with_its_finish(ends: Ends) -> None:
    events = ends.client.generate(request())
    first = asyncio.ensure_future(anext(events))
    assert await ends.next() == request()
    ends.say(tokens("r", 1), tokens("r", 2, 3))
    ends.say(tokens("r", 4, last=True))
    assert [await first, *[event async for event in events]] == [
        tokens("r", 1),
        tokens("r", 2, 3),
        tokens("r", 4, last=True),
    ]
    assert ends.client.num_open == 0
    assert await ends.nothing_more()


async def test_nothing_is_sent_before_the_first_iteration(ends: Ends) -> None:
    events = ends.client.generate(request())
    assert await ends.nothing_more()
    await events.aclose()
    assert ends.client.num_open == 0
    assert await ends.nothing_more()


async def test_each_request_gets_its_own_events(ends: Ends) -> None:
    async def ids(name: str) -> list[int]:
        return [i async for event in ends.client.generate(request(name)) for i in event.token_ids]

    names = [f"r{number}" for number in range(20)]
    readers = [asyncio.create_task(ids(name)) for name in names]
    for _ in names:
        await ends.next()
    for step in range(3):
        ends.say(*(tokens(name, step, int(name[1:]), last=step == 2) for name in reversed(names)))
    assert await asyncio.gather(*readers) == [
        [0, number, 1, number, 2, number] for number in range(20)
    ]
    assert ends.client.num_open == 0


async def test_a_failure_is_raised_with_its_code_and_no_abort(ends: Ends) -> None:
    events = ends.client.generate(request())
    first = asyncio.ensure_future(anext(events))
    await ends.next()
    ends.say(tokens("r", 1), RequestFailed(RequestId("r"), ErrorCode.ADAPTER_CORRUPT, "Broken."))
    assert await first == tokens("r", 1)
    with pytest.raises(ServeError, match=r"Broken\.") as caught:
        await anext(events)
    assert caught.value.code is ErrorCode.ADAPTER_CORRUPT
    assert ends.client.num_open == 0
    assert await ends.nothing_more()


async def test_closing_early_aborts_exactly_once(ends: Ends) -> None:
    async with aclosing(ends.client.generate(request())) as events:
        first = asyncio.ensure_future(anext(events))
        await ends.next()
        ends.say(tokens("r", 1))
        await first
    await events.aclose()
    assert await ends.next() == Abort(RequestId("r"))
    assert ends.client.num_open == 0
    assert await ends.nothing_more()


async def test_cancelling_the_consumer_aborts_exactly_once(ends: Ends) -> None:
    async def consume() -> None:
        async for _ in ends.client.generate(request()):
            pass

    consumer = asyncio.create_task(consume())
    await ends.next()
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert await ends.next() == Abort(RequestId("r"))
    assert ends.client.num_open == 0
    assert await ends.nothing_more()


async def test_closing_after_the_terminal_event_has_come_aborts_nothing(ends: Ends) -> None:
    events = ends.client.generate(request())
    first = asyncio.ensure_future(anext(events))
    await ends.next()
    ends.say(tokens("r", 1), tokens("r", 2, last=True))
    await first
    await events.aclose()  # the last event waits unread
    assert ends.client.num_open == 0
    assert await ends.nothing_more()


async def test_events_that_cross_an_abort_are_dropped(ends: Ends) -> None:
    events = ends.client.generate(request())
    first = asyncio.ensure_future(anext(events))
    await ends.next()
    ends.say(tokens("r", 1))
    await first
    await events.aclose()
    assert await ends.next() == Abort(RequestId("r"))
    ends.say(tokens("r", 2), tokens("r", 3, last=True))
    again = ends.client.generate(request())  # even under the same id
    late = asyncio.ensure_future(anext(again))
    assert await ends.next() == request()
    ends.say(tokens("r", 7, last=True))
    assert (await late).token_ids[0] in (2, 7)
    await again.aclose()


async def test_a_pool_is_answered_once(ends: Ends) -> None:
    asked = Pool(RequestId("p"), [10, 11], Pooling.MEAN)
    answer = PromptPooled(RequestId("p"), b"1234", PromptStats(0, 0.0))
    waiting = asyncio.create_task(ends.client.pool(asked))
    assert await ends.next() == asked
    ends.say(answer)
    assert await waiting == answer
    waiting = asyncio.create_task(ends.client.pool(asked))
    assert await ends.next() == asked
    ends.say(RequestFailed(RequestId("p"), ErrorCode.ADAPTER_CORRUPT, "Broken."))
    with pytest.raises(ServeError, match=r"Broken\."):
        await waiting
    assert ends.client.num_open == 0
    assert await ends.nothing_more()


async def test_a_cancelled_pool_is_aborted_and_an_open_one_ends_with_the_engine(ends: Ends) -> None:
    asked = [Pool(RequestId(name), [10], Pooling.LAST) for name in ("left", "stays")]
    left, stays = (asyncio.create_task(ends.client.pool(each)) for each in asked)
    assert [await ends.next(), await ends.next()] == asked
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await ends.next() == Abort(RequestId("left"))
    ends.client.fail_all(EngineLost())
    with pytest.raises(EngineLost):
        await stays
    assert ends.client.num_open == 0


async def test_a_request_id_in_use_is_our_own_mistake(ends: Ends) -> None:
    events = ends.client.generate(request())
    first = asyncio.ensure_future(anext(events))
    await ends.next()
    with pytest.raises(ValueError, match="in use"):
        await anext(ends.client.generate(request()))
    ends.say(tokens("r", 1, last=True))
    assert await first == tokens("r", 1, last=True)
    await events.aclose()
    assert await ends.nothing_more()


async def test_a_request_the_engine_never_had_is_refused_with_its_own_error(ends: Ends) -> None:
    refusal = ServeError(ErrorCode.ENGINE_LOST, "Gone.")
    ends.client.fail_all(EngineLost(), refusal=refusal)
    with pytest.raises(ServeError) as caught:
        async for _ in ends.client.generate(request("late")):
            pass
    assert caught.value is refusal


async def test_fail_all_ends_every_open_request_and_refuses_later_ones(ends: Ends) -> None:
    async def outcome(name: str) -> ServeError:
        with pytest.raises(ServeError) as caught:
            async for _ in ends.client.generate(request(name)):
                pass
        return caught.value

    readers = [asyncio.create_task(outcome(f"r{number}")) for number in range(8)]
    for _ in readers:
        await ends.next()
    ends.client.fail_all(EngineLost())
    assert {type(error) for error in await asyncio.gather(*readers)} == {EngineLost}
    assert ends.client.num_open == 0
    assert not ends.client.is_ready
    assert isinstance(await outcome("late"), EngineLost)
    assert await ends.nothing_more()


async def test_refusing_new_requests_lets_the_open_ones_end(ends: Ends) -> None:
    events = ends.client.generate(request())
    first = asyncio.ensure_future(anext(events))
    await ends.next()
    ends.client.refuse_new(ServeError(ErrorCode.SERVER_SHUTDOWN, "Going."))
    ended = asyncio.create_task(ends.client.wait_none_open())
    with pytest.raises(ServeError, match=r"Going\."):
        await anext(ends.client.generate(request("late")))
    assert not ended.done()
    ends.say(tokens("r", 1, last=True))
    assert await first == tokens("r", 1, last=True)
    await ended
    await events.aclose()


async def test_an_engine_that_does_not_read_is_a_full_queue(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(message: ToEngine) -> None:
        raise LinkError("full")

    monkeypatch.setattr(ends.link, "send", full)
    with pytest.raises(ServeError) as caught:
        await anext(ends.client.generate(request()))
    assert caught.value.code is ErrorCode.QUEUE_FULL
    assert ends.client.num_open == 0


ADAPTER = AdapterRef("a", "/adapters/a", "1")


async def test_a_command_gets_its_answer(ends: Ends) -> None:
    asking = asyncio.create_task(ends.client.command(AdapterAction.LOAD, ADAPTER))
    message = await ends.next()
    assert isinstance(message, AdapterCommand)
    assert (message.action, message.adapter) == (AdapterAction.LOAD, ADAPTER)
    ends.answer(AdapterReply(RequestId("somebody else's")))
    ends.answer(AdapterReply(message.request_id))
    assert await asking is None
    assert await ends.nothing_more()


async def test_a_report_is_handed_over(ends: Ends) -> None:
    report = AdapterReport([], TierUse(2, 1), TierUse(4, 3))
    asking = asyncio.create_task(ends.client.command(AdapterAction.REPORT))
    message = await ends.next()
    assert isinstance(message, AdapterCommand)
    ends.answer(AdapterReply(message.request_id, report))
    assert await asking == report


async def test_a_refused_command_fails_with_the_engines_words(ends: Ends) -> None:
    asking = asyncio.create_task(ends.client.command(AdapterAction.PIN, ADAPTER))
    message = await ends.next()
    assert isinstance(message, AdapterCommand)
    ends.answer(RequestFailed(message.request_id, ErrorCode.ADAPTER_CORRUPT, "No such luck."))
    with pytest.raises(ServeError, match="No such luck") as caught:
        await asking
    assert caught.value.code is ErrorCode.ADAPTER_CORRUPT


async def test_a_cancelled_command_is_withdrawn_and_a_late_answer_is_nobodys(ends: Ends) -> None:
    asking = asyncio.create_task(ends.client.command(AdapterAction.PIN, ADAPTER))
    message = await ends.next()
    assert isinstance(message, AdapterCommand)
    asking.cancel()
    assert await ends.next() == Abort(message.request_id)
    ends.answer(AdapterReply(message.request_id))
    assert await ends.nothing_more()


async def test_commands_end_with_the_engine(ends: Ends) -> None:
    asking = asyncio.create_task(ends.client.command(AdapterAction.PIN, ADAPTER))
    await ends.next()
    ends.client.fail_all(EngineLost())
    with pytest.raises(EngineLost):
        await asking
    with pytest.raises(EngineLost):
        await ends.client.command(AdapterAction.REPORT)
