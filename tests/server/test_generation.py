"""Engine events into text and an end, for any way the tokens are spread over events."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_engine import FakeEngine, Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason, SamplingParams
from lorax_serve.server.admission import Accepted, Admission
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.generation import Answer, End, Piece, collect, pieces
from lorax_serve.server.request import GenerationRequest
from wire import Wire, make_service


@pytest_asyncio.fixture
async def bench(wire_files: Path) -> AsyncIterator[Wire]:
    """The engine and the text side, without HTTP."""
    engine = FakeEngine()
    service = make_service(wire_files, engine)
    yield Wire(engine, service.tokenizer, service)
    service.tokenizer.close()


async def accepted(bench: Wire, *stop: str, keep: bool = False, **fields: object) -> Accepted:
    asked = GenerationRequest(
        prompt="hi",
        sampling=SamplingParams(num_logprobs=1),
        stop_strings=stop,
        keep_stop_string=keep,
        **fields,  # type: ignore[arg-type]
    )
    async with Admission(bench.service).accept(asked) as made:
        return made


async def run(bench: Wire, *stop: str, keep: bool = False, **fields: object) -> Answer:
    request = await accepted(bench, *stop, keep=keep, **fields)
    (answer,) = await collect(pieces(bench.engine, bench.tokenizer, request), 1)
    return answer


async def test_an_answer(bench: Wire) -> None:
    bench.will_say("Hellö")
    answer = await run(bench)
    assert answer.finish.text == "Hellö"
    assert (answer.finish.end, answer.finish.stop_reason) == (End.EOS, None)
    assert [token.text for token in answer.tokens] == [*"Hell", "", "ö", ""]
    assert [token.silent for token in answer.tokens] == [False] * 6 + [True]
    assert answer.tokens[0].logprob.top == ((0, -1.0),)
    assert answer.prompt is not None
    assert answer.prompt.num_cached_tokens == 3
    assert answer.first_token_at <= answer.ended_at
    assert bench.engine.aborted == []


async def test_a_special_token_inside_is_listed_but_not_text(bench: Wire) -> None:
    special = bench.token(b"<|endoftext|>")
    bench.engine.script = [Tokens([*bench.spell("a"), special, *bench.spell("b")])]
    bench.engine.script = [*bench.engine.script, Tokens([bench.eos], FinishReason.EOS)]
    answer = await run(bench)
    assert answer.finish.text == "ab"
    assert [token.special for token in answer.tokens] == [False, True, False, True]
    shown = await run(bench, skip_special_tokens=False)
    assert shown.finish.text == "a<|endoftext|>b"


async def test_a_stop_token_belongs_to_the_text_only_when_asked_for(bench: Wire) -> None:
    bench.engine.script = [Tokens(bench.spell("ab"), FinishReason.STOP_TOKEN)]
    answer = await run(bench)
    assert (answer.finish.end, answer.finish.text) == (End.STOP_TOKEN, "a")
    assert answer.finish.stop_reason == bench.spell("b")[0]
    assert len(answer.tokens) == 2
    assert (await run(bench, keep=True)).finish.text == "ab"


async def test_tokens_after_a_stop_string_are_not_counted(bench: Wire) -> None:
    bench.engine.script = [Tokens(bench.spell("one two three"), FinishReason.LENGTH)]
    answer = await run(bench, "two")
    assert (answer.finish.end, answer.finish.stop_reason) == (End.STOP_STRING, "two")
    assert answer.finish.text == "one "
    assert len(answer.tokens) == len("one two")
    assert "".join(token.text for token in answer.tokens) == "one "


async def test_held_text_goes_to_the_last_token_that_shows_text(bench: Wire) -> None:
    bench.engine.script = [Tokens([*bench.spell("one tw"), bench.eos], FinishReason.EOS)]
    answer = await run(bench, "two")
    assert answer.finish.text == "one tw"
    assert answer.tokens[-2].text == "tw"
    assert answer.tokens[-1].text == ""


async def test_closing_early_aborts(bench: Wire) -> None:
    bench.will_say("Hello", finish=None)
    source = pieces(bench.engine, bench.tokenizer, await accepted(bench))
    assert (await anext(source)).text == "H"
    await source.aclose()
    assert len(bench.engine.aborted) == 1


async def test_failures_pass_through(bench: Wire) -> None:
    bench.engine.script = [Tokens(bench.spell("He")), EngineLost()]
    with pytest.raises(EngineLost):
        await run(bench)


async def test_an_end_without_a_token_is_an_error(bench: Wire) -> None:
    bench.engine.script = [Tokens([], FinishReason.EOS)]
    with pytest.raises(ServeError) as caught:
        await run(bench)
    assert caught.value.code is ErrorCode.GENERATION_ERROR


TEXTS = st.text(alphabet="ab c\n€é你😀", max_size=12)


@settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=TEXTS,
    sizes=st.lists(st.integers(1, 5), min_size=30, max_size=30),
    stop=st.lists(TEXTS.filter(bool), max_size=2),
    keep=st.booleans(),
    finish=st.sampled_from([FinishReason.EOS, FinishReason.LENGTH]),
)
async def test_any_split_gives_the_same_answer(
    bench: Wire,
    text: str,
    sizes: list[int],
    stop: list[str],
    keep: bool,
    finish: FinishReason,
) -> None:
    """The text is what the tokens spell, up to the first stop string to be complete."""
    ids = [*bench.spell(text), bench.eos] if finish is FinishReason.EOS else bench.spell(text + "x")
    script = []
    at = 0
    for size in sizes:
        if at < len(ids):
            last = at + size >= len(ids)
            script.append(Tokens(ids[at : at + size], finish if last else None))
        at += size
    bench.engine.script = script
    seen: list[Piece] = []
    async for piece in pieces(
        bench.engine, bench.tokenizer, await accepted(bench, *stop, keep=keep)
    ):
        seen.append(piece)

    spoken = text if finish is FinishReason.EOS else text + "x"
    ends = [(spoken.index(s) + len(s), -len(s), s) for s in stop if s in spoken]
    expected = spoken
    if ends:
        end, _, matched = min(ends)
        expected = spoken[:end] if keep else spoken[: end - len(matched)]
    finish_ = seen[-1].finish
    assert finish_ is not None
    assert finish_.text == expected == "".join(piece.text for piece in seen)
    assert all(piece.finish is None for piece in seen[:-1])
    assert (finish_.end is End.STOP_STRING) == bool(ends)
    assert finish_.stop_reason == (min(ends)[2] if ends else None)
    assert seen[-1].num_tokens == sum(len(piece.tokens) for piece in seen)
