import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.server.text.detokenizer import IncrementalDetokenizer
from lorax_serve.server.text.tokenizer import Tokenizer
from tiny_tokenizers import KINDS

EXACT = ("byte_level", "framed_byte_level", "metaspace")  # like tokenizers for any ids at all
IDS = st.lists(st.integers(min_value=0, max_value=400), max_size=24)
PROPERTY = settings(derandomize=True, deadline=None, max_examples=300)


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool, prompt: list[int]) -> list[str]:
    """The text of each push, and of the flush."""
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip, prompt_ids=prompt)
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@given(kind=st.sampled_from(EXACT), ids=IDS, skip=st.booleans())
@PROPERTY
def test_any_ids_read_as_transformers_reads_them(
    ours: dict[str, Tokenizer], theirs: dict[str, Any], kind: str, ids: list[int], skip: bool
) -> None:
    expected = theirs[kind].decode(ids, skip_special_tokens=skip)
    assert ours[kind].decode(ids, skip_special_tokens=skip) == expected
    assert "".join(stream(ours[kind], ids, skip=skip, prompt=[])) == expected


def byte_ids(text: bytes) -> list[int]:
    """Byte tokens of the byte-fallback tokenizer, which follow its three special ones."""
    return [3 + byte for byte in text]


RUN = st.one_of(
    st.text(max_size=3).map(str.encode),
    st.sampled_from([b"\xe4", b"\xe4\xbd", b"\xf0\x9f\x98", b"\xff", b"\x80\x80", b"\xed\xa0\x80"]),
)


@given(runs=st.lists(st.tuples(RUN, st.integers(min_value=0, max_value=383)), max_size=6))
@PROPERTY
def test_byte_runs_read_as_transformers_reads_them_unless_valid_and_broken_mix(
    ours: dict[str, Tokenizer], theirs: dict[str, Any], runs: list[tuple[bytes, int]]
) -> None:
    """Each run is wholly valid or wholly broken, and kept from the next by a token."""
    ids = [token_id for run, other in runs for token_id in [*byte_ids(run), _apart(other)]]
    expected = theirs["byte_fallback"].decode(ids)
    assert "".join(stream(ours["byte_fallback"], ids, skip=False, prompt=[])) == expected


def _apart(token_id: int) -> int:
    return token_id if token_id >= 259 else token_id % 3


@given(ids=IDS)
@PROPERTY
def test_a_broken_byte_costs_only_itself(ours: dict[str, Tokenizer], ids: list[int]) -> None:
    tokenizer = ours["byte_fallback"]
    escaped = b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "surrogateescape")
    expected = re.sub("[\ud800-\udfff]", "\ufffd", escaped).removeprefix(" ")
    assert "".join(stream(tokenizer, ids, skip=False, prompt=[])) == expected


@given(kind=st.sampled_from(KINDS), prompt=IDS, ids=IDS, skip=st.booleans())
@PROPERTY
def test_a_generation_is_what_it_adds_to_its_prompt(
    ours: dict[str, Tokenizer], kind: str, prompt: list[int], ids: list[int], skip: bool
) -> None:
    *sent, _ = stream(ours[kind], prompt, skip=skip, prompt=[])
    added = stream(ours[kind], ids, skip=skip, prompt=prompt)
    whole = ours[kind].decode(prompt + ids, skip_special_tokens=skip)
    assert "".join([*sent, *added]) == whole


@given(kind=st.sampled_from(KINDS), text=st.text(max_size=30))
@PROPERTY
def test_no_push_splits_a_character(ours: dict[str, Tokenizer], kind: str, text: str) -> None:
    text = text.replace("\ufffd", "")
    ids = ours[kind].encode(text, add_special_tokens=False)
    texts = stream(ours[kind], ids, skip=False, prompt=[])
    assert not any("\ufffd" in piece for piece in texts)
    assert texts[-1] == ""


def test_an_emoji_appears_with_its_last_byte(ours: dict[str, Tokenizer]) -> None:
    ids = byte_ids("😀!".encode())
    texts = stream(ours["byte_fallback"], ids, skip=True, prompt=[])
    assert texts == ["", "", "", "😀", "!", ""]


def test_a_character_cut_off_is_shown_broken_by_the_flush_alone(
    ours: dict[str, Tokenizer],
) -> None:
    level = ours["byte_level"]
    ids = level.encode("😀", add_special_tokens=False)
    assert len(ids) > 1
    texts = stream(level, ids[:-1], skip=True, prompt=[])
    assert set(texts[:-1]) == {""} and texts[-1] == "\ufffd"


def test_the_space_of_a_word_is_kept_behind_a_prompt(ours: dict[str, Tokenizer]) -> None:
    for kind in ("byte_fallback", "metaspace"):
        tokenizer = ours[kind]
        sea, shells = (
            tokenizer.encode(word, add_special_tokens=False) for word in ("sea", "shells")
        )
        (bos,) = tokenizer.encode("<s>", add_special_tokens=False)[-1:]
        alone = stream(tokenizer, shells, skip=True, prompt=[])
        after_bos = stream(tokenizer, shells, skip=True, prompt=[bos])
        after_word = stream(tokenizer, shells, skip=True, prompt=[bos, *sea])
        assert "".join(alone) == "".join(after_bos) == "shells"
        assert "".join(after_word) == " shells"


def test_special_tokens_are_skipped_or_shown(ours: dict[str, Tokenizer]) -> None:
    level = ours["byte_level"]
    ids = level.encode("a<|im_end|>b", add_special_tokens=False)
    assert "".join(stream(level, ids, skip=True, prompt=[])) == "ab"
    assert "".join(stream(level, ids, skip=False, prompt=[])) == "a<|im_end|>b"
