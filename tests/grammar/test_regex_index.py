import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from grammar_corpus import BOMB_PATTERNS, REFUSED_PATTERNS
from grammar_tokenizers import EOS_TOKEN_IDS, VOCAB_SIZE
from grammar_walks import Walker
from lorax_serve.grammar import regex_index
from lorax_serve.grammar.errors import GrammarTooComplex, InvalidGrammar
from lorax_serve.grammar.guide import GuideFactory
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.grammar.vocabulary import TokenVocabulary

PATIENT = 120.0  # seconds: no test here should fail because the machine is slow


def children() -> list[int]:
    """Compile children of this process that exist in any state, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text()
            except OSError:  # it ended while we looked
                continue
            is_ours = int(fields[1]) == os.getpid()
            if is_ours and (fields[0] == "Z" or "compile_child" in command):
                found.append(int(entry.name))
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
async def no_child_is_left() -> AsyncIterator[None]:
    yield
    assert children() == []


@pytest.fixture
def compiler(byte_level_json: Path) -> RegexCompiler:
    return RegexCompiler(byte_level_json, EOS_TOKEN_IDS, wall_seconds=PATIENT)


async def test_a_compiled_pattern_guides_to_a_match(
    compiler: RegexCompiler, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = await compiler.regex(r"^[0-9]{3}-(x|xy)$")
    assert (grammar.kind, grammar.warnings) == ("outlines_index", ())
    for seed in range(10):
        guide = factory.create(grammar.kind, grammar.payload, grammar.digest)
        text = Walker(vocabulary, VOCAB_SIZE).text(guide, seed).decode()
        assert re.fullmatch(r"[0-9]{3}-(x|xy)", text)


async def test_a_compiled_choice_guides_to_an_option(
    compiler: RegexCompiler, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    options = ["New", "New York", "a|b", "😀"]
    grammar = await compiler.choice(options)
    seen = set()
    for seed in range(40):
        guide = factory.create(grammar.kind, grammar.payload, grammar.digest)
        seen.add(Walker(vocabulary, VOCAB_SIZE).text(guide, seed).decode())
    assert seen == set(options)


async def test_equal_patterns_are_compiled_once(
    compiler: RegexCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await asyncio.gather(compiler.regex("^ab?$"), compiler.regex("ab?"))
    assert first.digest == second.digest
    monkeypatch.setattr(regex_index, "CHILD", ("/bin/false",))
    assert await compiler.regex("ab?") in (first, second)


async def test_what_does_not_fit_the_cache_is_compiled_again(byte_level_json: Path) -> None:
    compiler = RegexCompiler(byte_level_json, EOS_TOKEN_IDS, wall_seconds=PATIENT, cache_bytes=10)
    first, second = await compiler.regex("ab?"), await compiler.regex("ab?")
    assert first is not second
    assert first == second


@pytest.mark.parametrize("name", REFUSED_PATTERNS)
async def test_refused_patterns_say_why(compiler: RegexCompiler, name: str) -> None:
    with pytest.raises(InvalidGrammar) as refused:
        await compiler.regex(REFUSED_PATTERNS[name])
    reasons = {
        "look_ahead": "look-around",
        "look_behind": "look-around",
        "back_reference": "backreferences",
        "unclosed_class": "unclosed character class",
        "unclosed_group": "unclosed group",
        "unopened_group": "unopened group",
        "invalid_escape": "unrecognized escape",
        "inner_anchor": "an anchor or word boundary inside",
        "word_boundary": "an anchor or word boundary inside",
        "nothing_to_repeat": "repetition operator missing expression",
        "lone_surrogate": "surrogate",
    }
    assert reasons[name] in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("name", BOMB_PATTERNS)
async def test_bombs_are_refused_and_their_child_is_gone(byte_level_json: Path, name: str) -> None:
    compiler = RegexCompiler(byte_level_json, EOS_TOKEN_IDS, wall_seconds=1.0)
    with pytest.raises(GrammarTooComplex):
        await compiler.regex(BOMB_PATTERNS[name])
    assert children() == []


async def test_a_bomb_does_not_block_the_event_loop(byte_level_json: Path) -> None:
    compiler = RegexCompiler(byte_level_json, EOS_TOKEN_IDS, wall_seconds=1.0)
    bomb = asyncio.create_task(compiler.regex(BOMB_PATTERNS["long_text"]))
    turns = 0
    while not bomb.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 10
    with pytest.raises(GrammarTooComplex, match="over 1 s"):
        await bomb


async def test_too_much_memory_is_refused(byte_level_json: Path) -> None:
    compiler = RegexCompiler(
        byte_level_json, EOS_TOKEN_IDS, wall_seconds=PATIENT, memory_bytes=192 * 2**20
    )
    with pytest.raises(GrammarTooComplex, match="memory"):
        await compiler.regex(BOMB_PATTERNS["long_text"])
    assert (await compiler.regex("[a-z]{1,20}")).payload


async def test_too_large_an_index_is_refused(
    compiler: RegexCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regex_index, "MAX_INDEX_BYTES", 1000)
    assert len((await compiler.regex("[0-9]")).payload) < 1000
    with pytest.raises(GrammarTooComplex, match="1000 bytes"):
        await compiler.regex(".{0,20}")


async def test_a_child_that_writes_too_much_is_cut_off(
    compiler: RegexCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regex_index, "MAX_INDEX_BYTES", 2**20)
    monkeypatch.setattr(regex_index, "CHILD", ("/bin/sh", "-c", "exec yes compile_child"))
    with pytest.raises(GrammarTooComplex, match="1048576 bytes"):
        await compiler.regex("a")


async def test_a_child_that_cannot_run_is_not_the_clients_fault(
    compiler: RegexCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regex_index, "CHILD", ("/bin/false",))
    with pytest.raises(RuntimeError, match="exited with 1"):
        await compiler.regex("a")


async def test_cancelling_a_request_ends_its_child(compiler: RegexCompiler) -> None:
    task = asyncio.create_task(compiler.regex(BOMB_PATTERNS["long_text"]))
    await until(lambda: bool(children()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == []
    assert (await compiler.regex("a")).payload


async def test_cancelling_at_any_moment_leaves_no_child(compiler: RegexCompiler) -> None:
    for turns in (*range(12), 30, 100):
        task = asyncio.create_task(compiler.regex(BOMB_PATTERNS["long_text"]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == []


async def test_few_children_run_at_a_time(byte_level_json: Path) -> None:
    compiler = RegexCompiler(byte_level_json, EOS_TOKEN_IDS, wall_seconds=0.5)
    bombs = [
        asyncio.create_task(compiler.regex(f"{i}{BOMB_PATTERNS['long_text']}")) for i in range(5)
    ]
    most = 0
    while not all(bomb.done() for bomb in bombs):
        most = max(most, len(children()))
        await asyncio.sleep(0.01)
    assert most == regex_index.MAX_CHILDREN
    for bomb in bombs:
        with pytest.raises(GrammarTooComplex):
            await bomb


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], InvalidGrammar),
        (["\ud800"], InvalidGrammar),
        ([1], InvalidGrammar),
        (["a"] * 1001, GrammarTooComplex),
        (["a" * 2**14, "b"], GrammarTooComplex),
    ],
)
async def test_choices_are_bounded(
    compiler: RegexCompiler, options: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await compiler.choice(options)


async def test_patterns_are_bounded(compiler: RegexCompiler) -> None:
    with pytest.raises(GrammarTooComplex, match="4096"):
        await compiler.regex("a" * 4097)


async def test_the_largest_choice_compiles(compiler: RegexCompiler) -> None:
    options = [f"option {i}" for i in range(1000)]
    assert (await compiler.choice(options)).payload
