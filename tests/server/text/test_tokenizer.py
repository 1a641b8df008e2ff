"""Texts to ids and back: as transformers has it, within bounds, and beside the event loop."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.text.tokenizer import INLINE_BYTES, Tokenizer
from tiny_tokenizers import KINDS


@given(kind=st.sampled_from(KINDS), text=st.text(max_size=40), add=st.booleans())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_encode_any_text(
    ours: dict[str, Tokenizer], theirs: dict[str, Any], kind: str, text: str, add: bool
) -> None:
    expected = theirs[kind].encode(text, add_special_tokens=add)
    assert ours[kind].encode(text, add_special_tokens=add) == expected


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "x" * 2000 + "\ud83d"])
async def test_lone_surrogates_are_the_clients_fault(ours: dict[str, Tokenizer], text: str) -> None:
    for tokenizer in ours.values():
        with pytest.raises(ServeError) as sync:
            tokenizer.encode(text, add_special_tokens=True)
        with pytest.raises(ServeError) as bounded:
            await tokenizer.encode_bounded(text, add_special_tokens=True, max_tokens=9)
        assert sync.value.code is bounded.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("repeats", [1, INLINE_BYTES])
async def test_encode_bounded_draws_the_line_at_max_tokens(
    ours: dict[str, Tokenizer], repeats: int
) -> None:
    tokenizer = ours["byte_fallback"]
    text = "sea shells " * repeats
    expected = tokenizer.encode(text, add_special_tokens=True)
    exact = await tokenizer.encode_bounded(text, add_special_tokens=True, max_tokens=len(expected))
    assert exact == expected
    with pytest.raises(ServeError, match=f"is {len(expected)} tokens long") as refused:
        await tokenizer.encode_bounded(text, add_special_tokens=True, max_tokens=len(expected) - 1)
    assert refused.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


async def test_a_hopeless_text_is_refused_unread(
    ours: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ours["byte_level"]
    longest = max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))
    monkeypatch.setattr(tokenizer, "_encode", lambda *_: [0])
    assert await tokenizer.encode_bounded("x" * longest, add_special_tokens=False, max_tokens=1)
    with pytest.raises(ServeError, match="at least 2 tokens") as refused:
        await tokenizer.encode_bounded("x" * longest + "x", add_special_tokens=False, max_tokens=1)
    assert refused.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


async def test_the_loop_runs_on_while_a_long_text_is_encoded(ours: dict[str, Tokenizer]) -> None:
    text = "The quick brown fox. " * 5000
    encoding = asyncio.ensure_future(
        ours["byte_level"].encode_bounded(text, add_special_tokens=False, max_tokens=len(text))
    )
    num_turns = 0
    while not encoding.done():
        await asyncio.sleep(0)
        num_turns += 1
    assert num_turns > 3
    assert ours["byte_level"].decode(await encoding, skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", ["byte_level", "framed_byte_level"])
@given(text=st.text(max_size=30))
@settings(derandomize=True, deadline=None)
def test_token_bytes_spell_the_text(ours: dict[str, Tokenizer], kind: str, text: str) -> None:
    ids = ours[kind].encode(text, add_special_tokens=False)
    assert b"".join(map(ours[kind].token_bytes, ids)) == text.encode()


def test_single_tokens(ours: dict[str, Tokenizer]) -> None:
    level, fallback = ours["byte_level"], ours["byte_fallback"]
    (end,) = level.encode("<|im_end|>", add_special_tokens=False)
    (the,) = fallback.encode("the", add_special_tokens=False)
    (byte, *_) = fallback.encode("你", add_special_tokens=False)[1:]
    assert (level.token_text(end), level.token_bytes(end)) == ("<|im_end|>", b"<|im_end|>")
    assert level.is_special(end) and not fallback.is_special(the)
    assert fallback.token_text(the) == " the"
    assert fallback.token_bytes(byte) == b"\xe4"
    assert fallback.token_text(byte) == "\ufffd"


def test_ids_without_a_token_have_no_text(ours: dict[str, Tokenizer]) -> None:
    for tokenizer in ours.values():
        for token_id in (-1, tokenizer.vocab_size, 2**31 - 1):
            assert tokenizer.token_bytes(token_id) == tokenizer.first_token_bytes(token_id) == b""
            assert tokenizer.token_text(token_id) == ""
            assert not tokenizer.is_special(token_id)
            assert tokenizer.decode([token_id], skip_special_tokens=False) == ""


def test_closing_ends_the_encoding_threads(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_folder(folders["byte_level"])
    tokenizer.close()
    long_text = "x" * (INLINE_BYTES + 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        asyncio.run(
            tokenizer.encode_bounded(long_text, add_special_tokens=False, max_tokens=10_000)
        )
