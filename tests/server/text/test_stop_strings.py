from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.server.text.stop_strings import StopMatcher, StopResult

PROPERTY = settings(derandomize=True, deadline=None, max_examples=500)
# Few letters, so that stop strings overlap, contain one another and nearly match.
STOPS = st.lists(st.text("ab😀", min_size=1, max_size=4), max_size=5)
PIECES = st.lists(st.text("ab😀x", max_size=5), max_size=10)


def search(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, by trying every end."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def feed(matcher: StopMatcher, pieces: Sequence[str]) -> tuple[list[str], str | None]:
    """What is emitted, piece by piece, until a match; then or at the end the flush."""
    emitted: list[str] = []
    for piece in pieces:
        result = matcher.push(piece)
        emitted.append(result.emit)
        if result.matched is not None:
            return emitted, result.matched
    return [*emitted, matcher.flush()], None


@given(stops=STOPS, pieces=PIECES)
@PROPERTY
def test_same_as_a_search_of_the_whole_text(stops: list[str], pieces: list[str]) -> None:
    emitted, matched = feed(StopMatcher(stops), pieces)
    assert ("".join(emitted), matched) == search("".join(pieces), stops)


@given(stops=STOPS, pieces=PIECES)
@PROPERTY
def test_keeping_only_adds_the_stop_string(stops: list[str], pieces: list[str]) -> None:
    emitted, matched = feed(StopMatcher(stops, keep=True), pieces)
    before, expected = search("".join(pieces), stops)
    assert matched == expected
    assert "".join(emitted) == before + (expected or "")


@given(stops=STOPS, pieces=PIECES)
@PROPERTY
def test_exactly_what_may_yet_match_is_held_back(stops: list[str], pieces: list[str]) -> None:
    matcher, seen, emitted = StopMatcher(stops), "", ""
    for piece in pieces:
        result = matcher.push(piece)
        seen, emitted = seen + piece, emitted + result.emit
        if result.matched is not None:
            return
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))} | {""}
        held = max((b for b in beginnings if seen.endswith(b)), key=len)
        assert emitted + held == seen


@given(pieces=PIECES)
@PROPERTY
def test_keeping_holds_nothing_back(pieces: list[str]) -> None:
    matcher = StopMatcher(["aaaaaaaab"], keep=True)
    for piece in pieces:
        result = matcher.push(piece)
        if result.matched is not None:
            return
        assert result.emit == piece


def test_inside_a_piece_and_across_pieces() -> None:
    assert StopMatcher(["END"]).push("the END of it") == StopResult("the ", "END")
    matcher = StopMatcher(["END"])
    assert [matcher.push(piece) for piece in ("the E", "N", "D of")] == [
        StopResult("the "),
        StopResult(""),
        StopResult("", "END"),
    ]


def test_a_broken_off_stop_string_is_released() -> None:
    matcher = StopMatcher(["\n\nHuman:"])
    assert matcher.push("yes\n\nHu").emit == "yes"
    assert matcher.push("mming").emit == "\n\nHumming"
    assert matcher.push("\n").emit == ""
    assert matcher.flush() == "\n"


def test_the_first_to_be_complete_wins_and_then_the_longest() -> None:
    assert StopMatcher(["abcd", "bc"]).push("xabcd") == StopResult("xa", "bc")
    assert StopMatcher(["c", "abc", "bc"]).push("xabcd") == StopResult("x", "abc")


def test_nothing_follows_a_match() -> None:
    matcher = StopMatcher(["!"])
    assert matcher.push("a!b") == StopResult("a", "!")
    assert matcher.push("c!") == StopResult("")
    assert matcher.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])
