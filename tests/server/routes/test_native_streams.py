"""Streams of LoRAX's routes against the types its published client parses them with."""

from lorax.types import StreamResponse

from fake_engine import Tokens
from lorax_serve.ipc.types import FinishReason
from native_replies import events, stream
from wire import Wire


async def test_stream_gives_one_event_for_each_token(wire: Wire) -> None:
    wire.will_say("Hellö")
    shown = await stream(wire)
    for event in shown:
        StreamResponse.model_validate(event)
    assert [event["token"]["text"] for event in shown] == [*"Hell", "", "ö", "<|im_end|>"]
    assert [event["generated_text"] for event in shown] == [None] * 6 + ["Hellö"]
    assert all(event["details"] is None for event in shown)


async def test_stream_splits_a_step_of_several_tokens(wire: Wire) -> None:
    wire.engine.script = [Tokens([*wire.spell("abc"), wire.eos], FinishReason.EOS)]
    shown = await stream(wire)
    assert [event["token"]["text"] for event in shown] == ["a", "b", "c", "<|im_end|>"]
    assert [event["generated_text"] for event in shown] == [None, None, None, "abc"]


async def test_stream_details_come_with_the_last_event(wire: Wire) -> None:
    wire.will_say("ok")
    *_, last = await stream(wire, details=True, do_sample=True, seed=7)
    assert last["details"] == {
        "finish_reason": "eos_token",
        "prompt_tokens": 2,
        "generated_tokens": 3,
        "seed": 7,
    }


async def test_stream_texts_of_plain_tokens_join_to_the_text(wire: Wire) -> None:
    """An unfinished character at the end is shown as U+FFFD, never lost."""
    wire.engine.script = [Tokens([*wire.spell("wör")[:2]], FinishReason.LENGTH)]
    shown = await stream(wire, stop=["\ufffd\ufffd"])
    joined = "".join(e["token"]["text"] for e in shown if not e["token"]["special"])
    assert joined == shown[-1]["generated_text"] == "w\ufffd"


async def test_root_streams_when_asked(wire: Wire) -> None:
    wire.will_say("ok")
    reply = await wire.client.post("/", json={"inputs": "hi", "stream": True})
    assert [event["token"]["text"] for event in await events(reply)] == ["o", "k", "<|im_end|>"]


async def test_generate_does_not_read_stream(wire: Wire) -> None:
    wire.will_say("ok")
    reply = await wire.client.post("/generate", json={"inputs": "hi", "stream": True})
    assert await reply.json() == {"generated_text": "ok"}
