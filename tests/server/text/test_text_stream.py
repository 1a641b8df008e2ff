from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.server.text.text_stream import TextDelta, TextStream
from lorax_serve.server.text.tokenizer import Tokenizer
from tiny_tokenizers import KINDS

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


@given(
    kind=st.sampled_from(KINDS),
    ids=st.lists(st.integers(min_value=0, max_value=390), max_size=20),
    stop=st.lists(st.sampled_from([" s", "e", "he ", "\ufffd", "😀"]), max_size=3),
    keep=st.booleans(),
)
@PROPERTY
def test_the_text_is_cut_where_the_whole_text_first_holds_a_stop_string(
    ours: dict[str, Tokenizer], kind: str, ids: list[int], stop: list[str], keep: bool
) -> None:
    stream = TextStream(ours[kind], stop, keep_stop_string=keep)
    deltas = [stream.push(token_id) for token_id in ids]
    sent = "".join([*(delta.text for delta in deltas), stream.finish()])
    whole = ours[kind].decode(ids, skip_special_tokens=True)
    ends = [(whole.index(s) + len(s), -len(s), s) for s in stop if s in whole]
    if ends:
        end, negative_length, matched = min(ends)
        assert (stream.stopped, sent) == (matched, whole[: end if keep else end + negative_length])
    else:
        assert (stream.stopped, sent) == (None, whole)
    assert stream.text == sent


@given(
    kind=st.sampled_from(KINDS),
    ids=st.lists(st.integers(min_value=0, max_value=390), max_size=20),
    min_tokens=st.integers(0, 25),
)
@PROPERTY
def test_the_first_tokens_are_not_looked_at_for_stop_strings(
    ours: dict[str, Tokenizer], kind: str, ids: list[int], min_tokens: int
) -> None:
    stop = ["e", " s"]
    stream = TextStream(ours[kind], stop, keep_stop_string=False, min_tokens=min_tokens)
    first = [stream.push(token_id) for token_id in ids[:min_tokens]]
    assert all(delta.stopped is None for delta in first)
    start = "".join(delta.text for delta in first)
    rest = "".join([*(stream.push(i).text for i in ids[min_tokens:]), stream.finish()])
    after = ours[kind].decode(ids, skip_special_tokens=True).removeprefix(start)
    assert rest == after[: min(after.index(s) if s in after else len(after) for s in stop)]


def test_openai_cuts_the_stop_string_off_and_holds_back_for_it(
    ours: dict[str, Tokenizer],
) -> None:
    level = ours["byte_level"]
    stream = TextStream(level, ["123"], keep_stop_string=False)
    one, two, three = level.encode("123", add_special_tokens=False)
    assert stream.push(one) == TextDelta("")
    assert stream.push(one) == TextDelta("1")
    assert stream.push(two) == TextDelta("")
    assert stream.text == "1"
    assert stream.push(three) == TextDelta("", "123")
    assert stream.push(one) == TextDelta("", "123")
    assert (stream.finish(), stream.text, stream.stopped) == ("", "1", "123")


def test_native_keeps_the_stop_string_and_nothing_behind_it(
    ours: dict[str, Tokenizer],
) -> None:
    level = ours["byte_level"]
    (the,) = level.encode(" the", add_special_tokens=False)
    stream = TextStream(level, ["th"], keep_stop_string=True)
    assert stream.push(the) == TextDelta(" th", "th")
    assert (stream.finish(), stream.text) == ("", " th")


def test_what_was_held_back_comes_with_the_end(ours: dict[str, Tokenizer]) -> None:
    level = ours["byte_level"]
    stream = TextStream(level, ["12"], keep_stop_string=False)
    (one,) = level.encode("1", add_special_tokens=False)
    assert stream.push(one).text == ""
    assert (stream.finish(), stream.text) == ("1", "1")


def test_a_generation_continues_its_prompt(ours: dict[str, Tokenizer]) -> None:
    fallback = ours["byte_fallback"]
    prompt = fallback.encode("sea", add_special_tokens=True)
    stream = TextStream(fallback, [], keep_stop_string=False, prompt_ids=prompt)
    for token_id in fallback.encode("shells", add_special_tokens=False):
        stream.push(token_id)
    stream.finish()
    assert stream.text == " shells"


def test_special_tokens_can_be_shown_and_stopped_at(ours: dict[str, Tokenizer]) -> None:
    level = ours["byte_level"]
    (end,) = level.encode("<|im_end|>", add_special_tokens=False)
    hidden = TextStream(level, ["<|im_end|>"], keep_stop_string=True)
    shown = TextStream(level, ["<|im_end|>"], keep_stop_string=True, skip_special_tokens=False)
    assert hidden.push(end) == TextDelta("")
    assert shown.push(end) == TextDelta("<|im_end|>", "<|im_end|>")
