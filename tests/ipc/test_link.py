"""The link against a hostile peer, a departed one and a slow one. Peers are bare pyzmq sockets."""

import asyncio
import random
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq

from lorax_serve.ipc import link as link_module
from lorax_serve.ipc.link import EngineLink, FrontendLink, LinkError
from lorax_serve.ipc.messages import (
    Abort,
    EngineFailed,
    Generate,
    Hello,
    LoadProgress,
    StepEvents,
    ToEngine,
    ToFrontend,
    TokensGenerated,
)
from lorax_serve.ipc.types import (
    AdapterRef,
    GrammarKind,
    GrammarSpec,
    MajoritySignMethod,
    MergedAdapters,
    MergeStrategy,
    RequestId,
    SamplingParams,
    StopConditions,
)

SECONDS = 20.0  # that no test needs

MESSAGES: list[ToEngine] = [
    Hello("0123"),
    Abort(RequestId("r1")),
    Generate(
        request_id=RequestId("r2"),
        prompt_token_ids=[1, 2, 300],
        sampling=SamplingParams(temperature=0.5, seed=2**63 - 1, logit_bias=((3, -1.5),)),
        stop=StopConditions(max_new_tokens=5, stop_token_ids=(7,)),
        adapter=AdapterRef("a", "/a", "1"),
        grammar=GrammarSpec(GrammarKind.LLGUIDANCE, b"{}", "d"),
        cache_salt="s",
        num_prompt_logprobs=20,
        after=RequestId("r1"),
    ),
    Generate(
        request_id=RequestId("r3"),
        prompt_token_ids=[1],
        sampling=SamplingParams(),
        stop=StopConditions(max_new_tokens=5),
        adapter=MergedAdapters(
            (AdapterRef("a", "/a", "1"), AdapterRef("b", "/b", "2")),
            (1.0, -0.5),
            MergeStrategy.TIES,
            0.25,
            MajoritySignMethod.FREQUENCY,
        ),
    ),
]


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="link-") as folder:  # tmp_path may be too long
        yield f"ipc://{folder}/engine.sock"


@pytest.fixture
def engine(endpoint: str) -> Iterator[EngineLink]:
    link = EngineLink(endpoint)
    yield link
    link.close()


@contextmanager
def raw_peer(endpoint: str) -> "Iterator[zmq.Socket[bytes]]":
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.setsockopt(zmq.LINGER, 5000)
        peer.setsockopt(zmq.SNDHWM, 0)
        peer.connect(endpoint)
        yield peer


def receive(engine: EngineLink, count: int) -> list[ToEngine]:
    """What is malformed ends a wait too, so it may take several."""
    messages: list[ToEngine] = []
    give_up = time.monotonic() + SECONDS
    while len(messages) < count and time.monotonic() < give_up:
        messages += [message for _, message in engine.receive(SECONDS)]
    return messages


async def test_messages_arrive_as_they_were_in_both_directions(
    engine: EngineLink, endpoint: str
) -> None:
    frontend = FrontendLink(endpoint)
    for message in MESSAGES:
        frontend.send(message)
    assert receive(engine, len(MESSAGES)) == MESSAGES
    frontend.send(Hello("x"))
    [(identity, _)] = engine.receive(SECONDS)
    answers: list[ToFrontend] = [
        LoadProgress("Loading weights", 0.25),
        StepEvents([TokensGenerated(RequestId("r2"), [4])]),
    ]
    assert all(engine.send(identity, answer) for answer in answers)
    assert [await frontend.receive() for _ in answers] == answers
    frontend.close()


async def test_a_frontend_may_connect_before_the_engine_binds(endpoint: str) -> None:
    frontend = FrontendLink(endpoint)
    frontend.send(Hello("early"))
    engine = EngineLink(endpoint)
    assert receive(engine, 1) == [Hello("early")]
    engine.close()
    frontend.close()


def test_a_merge_that_contradicts_itself_is_no_message(engine: EngineLink, endpoint: str) -> None:
    merged = msgspec.to_builtins(MESSAGES[-1])
    merged["adapter"]["weights"] = [1.0]
    with raw_peer(endpoint) as peer:
        peer.send(msgspec.msgpack.encode(merged))
        peer.send(msgspec.msgpack.encode(MESSAGES[0]))
        assert receive(engine, 1) == [MESSAGES[0]]
    assert engine.num_decode_errors == 1


def mutated(rng: random.Random, frame: bytes) -> bytes:
    changed = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(4):
            case 0:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            case 1:
                del changed[rng.randrange(len(changed)) :]
            case 2:
                changed[rng.randrange(len(changed) + 1) :] = rng.randbytes(rng.randrange(8))
            case _:
                at = rng.randrange(len(changed) + 1)
                changed[at:at] = rng.randbytes(rng.randrange(8))
        if not changed:
            return b""
    return bytes(changed)


def _packed(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


HELLO = _packed(type="hello", protocol="abc")
BOMBS: dict[str, list[bytes]] = {
    "nested": [b"\x91" * 100_000],
    "huge array": [b"\xdd\xff\xff\xff\xff"],
    "huge map": [b"\xdf\xff\xff\xff\xff"],
    "huge string": [b"\xdb\xff\xff\xff\xff"],
    "not utf-8": [HELLO.replace(b"abc", b"\xff\xfe\xfd")],
    "unknown field": [_packed(type="hello", protocol="abc", more=1)],
    "missing field": [_packed(type="hello")],
    "unknown type": [_packed(type="run", code="x")],
    "message of the other direction": [msgspec.msgpack.encode(EngineFailed("turned round"))],
    "empty": [b""],
    "two frames": [HELLO, HELLO],
    "delimited as by REQ": [b"", HELLO],
}


def test_ten_thousand_random_and_mutated_frames_are_dropped_and_counted(
    engine: EngineLink, endpoint: str
) -> None:
    rng = random.Random(20240607)
    valid = [msgspec.msgpack.encode(message) for message in MESSAGES]
    decoder = msgspec.msgpack.Decoder(ToEngine)
    batches = [[rng.randbytes(rng.randrange(200))] for _ in range(5_000)]
    batches += [[mutated(rng, rng.choice(valid))] for _ in range(5_000)]
    batches += BOMBS.values()
    with raw_peer(endpoint) as peer:
        for frames in batches:
            peer.send_multipart(frames)
        peer.send(msgspec.msgpack.encode(Hello("the last")))
        received: list[ToEngine] = []
        while not received or received[-1] != Hello("the last"):
            received += receive(engine, 1)
    assert engine.num_decode_errors + len(received) == len(batches) + 1
    assert engine.num_decode_errors > 9_000
    assert all(decoder.decode(msgspec.msgpack.encode(message)) == message for message in received)


@pytest.mark.parametrize("frames", BOMBS.values(), ids=BOMBS.keys())
def test_each_bomb_is_refused(engine: EngineLink, endpoint: str, frames: list[bytes]) -> None:
    with raw_peer(endpoint) as peer:
        peer.send_multipart(frames)
        peer.send(msgspec.msgpack.encode(Hello("after")))
        assert receive(engine, 1) == [Hello("after")]
    assert engine.num_decode_errors == 1


def test_an_oversized_frame_costs_only_its_sender_the_connection(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(link_module, "MAX_MESSAGE_BYTES", 1000)
    engine = EngineLink(endpoint)
    with raw_peer(endpoint) as bystander, raw_peer(endpoint) as bully:
        bystander.send(msgspec.msgpack.encode(Hello("before")))
        bully.send(msgspec.msgpack.encode(Hello("bully")))
        receive(engine, 2)
        bully.send(msgspec.msgpack.encode(Hello("x" * 2000)))
        bystander.send(msgspec.msgpack.encode(Hello("after")))
        assert receive(engine, 1) == [Hello("after")]
        assert engine.receive(0.2) == []
    engine.close()


async def test_a_frontend_refuses_to_send_an_oversized_message(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(link_module, "MAX_MESSAGE_BYTES", 1000)
    frontend = FrontendLink(endpoint)
    with pytest.raises(LinkError, match="over 1000"):
        frontend.send(Hello("x" * 1000))
    frontend.close()


async def test_a_frontend_never_waits_for_an_engine_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(link_module, "MAX_QUEUED_MESSAGES", 10)
    frontend = FrontendLink(endpoint)
    with pytest.raises(LinkError, match="does not read"):
        for _ in range(11):
            frontend.send(Hello("x"))
    frontend.close()


async def test_a_closed_link_sends_nothing(endpoint: str) -> None:
    frontend = FrontendLink(endpoint)
    frontend.close()
    with pytest.raises(LinkError, match="closed"):
        frontend.send(Hello("x"))


async def test_sending_to_a_departed_or_unknown_frontend_is_false(
    engine: EngineLink, endpoint: str
) -> None:
    frontend = FrontendLink(endpoint)
    frontend.send(Hello("x"))
    [(identity, _)] = engine.receive(SECONDS)
    assert engine.send(identity, EngineFailed("still there"))
    frontend.close()
    while engine.send(identity, EngineFailed("gone?")):
        engine.receive(0.01)
    assert not engine.send(b"nobody", EngineFailed("x"))


async def test_a_frontend_that_stalls_loses_nothing(engine: EngineLink, endpoint: str) -> None:
    frontend = FrontendLink(endpoint)
    frontend.send(Hello("x"))
    [(identity, _)] = engine.receive(SECONDS)
    count = 3 * link_module.MAX_QUEUED_MESSAGES
    progress = [LoadProgress("step", float(step)) for step in range(count)]
    assert all(engine.send(identity, message) for message in progress)
    assert [await frontend.receive() for _ in progress] == progress
    frontend.close()


async def test_sending_to_a_frontend_that_is_too_far_behind_is_false(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(link_module, "MAX_QUEUED_MESSAGES", 10)
    monkeypatch.setattr(link_module, "MAX_UNREAD_MESSAGES", 10)
    engine = EngineLink(endpoint)
    frontend = FrontendLink(endpoint)
    frontend.send(Hello("x"))
    [(identity, _)] = engine.receive(SECONDS)
    bulky = EngineFailed("x" * 100_000)  # so that the kernel's buffers are soon full too
    assert not all(engine.send(identity, bulky) for _ in range(1000))
    frontend.close()
    engine.close()


async def test_an_engine_that_sends_what_is_no_message_is_an_error(
    engine: EngineLink, endpoint: str
) -> None:
    frontend = FrontendLink(endpoint)
    for frames in ([b"\xff\x00garbage"], [b"a", b"b"], [b"\x91" * 100_000]):
        frontend.send(Hello("x"))
        [(identity, _)] = engine.receive(SECONDS)
        engine._socket.send_multipart([identity, *frames])
        with pytest.raises(LinkError):
            await frontend.receive()
    frontend.close()


def test_wake_ends_a_wait_from_another_thread(engine: EngineLink) -> None:
    thread = threading.Thread(target=engine.wake)
    thread.start()
    assert engine.receive(None) == []
    thread.join()


def test_a_wake_is_not_lost_and_does_not_linger(engine: EngineLink) -> None:
    for _ in range(100_000):  # more than the pipe holds
        engine.wake()
    for _ in range(1000):
        if not select_readable(engine):
            break
        assert engine.receive(None) == []
    assert not select_readable(engine)


def select_readable(engine: EngineLink) -> bool:
    return bool(engine._poller.poll(0))


def test_no_wait_with_a_timeout_of_zero(engine: EngineLink) -> None:
    assert engine.receive(0.0) == []


async def test_closing_the_engine_delivers_its_last_words(endpoint: str) -> None:
    engine = EngineLink(endpoint)
    frontend = FrontendLink(endpoint)
    frontend.send(Hello("x"))
    [(identity, _)] = engine.receive(SECONDS)
    engine.send(identity, EngineFailed("x" * 1_000_000))
    reading = asyncio.create_task(frontend.receive())
    await asyncio.to_thread(engine.close, SECONDS)
    assert await reading == EngineFailed("x" * 1_000_000)
    frontend.close()


def test_an_address_that_cannot_be_bound_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(zmq.ZMQError):
        EngineLink(f"ipc://{tmp_path}/no/such/folder/engine.sock")


def test_the_socket_is_a_unix_socket_and_nothing_else_listens(
    engine: EngineLink, endpoint: str
) -> None:
    path = Path(endpoint.removeprefix("ipc://"))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
