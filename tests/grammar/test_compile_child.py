"""Patterns small enough to be compiled here rather than in the child."""

import itertools
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outlines_core import Guide as OutlinesGuide
from outlines_core import Index, Vocabulary

from grammar_corpus import BOMB_PATTERNS
from grammar_tokenizers import EOS_TOKEN_IDS, VOCAB_SIZE
from grammar_walks import Walker, allowed_ids
from lorax_serve.grammar.compile_child import CompileRequest, compile_source
from lorax_serve.grammar.compiled import OUTLINES_INDEX, CompiledGrammar, compiled_grammar
from lorax_serve.grammar.guide import Guide, GuideFactory
from lorax_serve.grammar.index_vocabulary import index_vocabulary
from lorax_serve.grammar.regex_source import choice_source, pattern_source
from lorax_serve.grammar.vocabulary import TokenVocabulary


def compiled(source: str, vocabulary: TokenVocabulary) -> CompiledGrammar:
    return compiled_grammar(OUTLINES_INDEX, compile_source(source, index_vocabulary(vocabulary)))


def started(factory: GuideFactory, grammar: CompiledGrammar) -> Guide:
    return factory.create(grammar.kind, grammar.payload, grammar.digest)


def spells_on(guide: Guide, vocabulary: TokenVocabulary, text: bytes) -> bool:
    """Whether the guide lets the text be written a byte at a time."""
    by_bytes = vocabulary.ids_by_bytes()
    for byte in text:
        token_id = by_bytes[bytes([byte])][0]
        if token_id not in allowed_ids(guide, VOCAB_SIZE):
            return False
        guide.advance(token_id)
    return True


def spells(guide: Guide, vocabulary: TokenVocabulary, text: str) -> bool:
    """Whether it does, and lets the text end there."""
    return spells_on(guide, vocabulary, text.encode()) and guide.accepts_eos


WORDS = ["".join(w) for n in range(5) for w in itertools.product("ab", repeat=n)]

expressions = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "", "ab"]),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("({}){}".format, inner, st.sampled_from(["*", "+", "?", "*?", "+?", "??"])),
        st.builds("({}){{1,2}}".format, inner),
        st.builds("({}$|{})".format, inner, inner),
    ),
    max_leaves=6,
)


@given(expression=expressions)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_a_pattern_means_what_fullmatch_says(
    factory: GuideFactory, vocabulary: TokenVocabulary, expression: str
) -> None:
    """Including where outlines_core alone would prefer the first alternative and stop."""
    matching = [word for word in WORDS if re.fullmatch(expression, word)]
    try:
        grammar = compiled(pattern_source(expression), vocabulary)
    except ValueError:
        assert "$" in expression  # text after an end of text is refused
        return
    accepted = [w for w in WORDS if spells(started(factory, grammar), vocabulary, w)]
    assert accepted == matching


PATTERNS = [
    r"[0-9]{3}-[0-9]{4}",
    r"(yes|no|maybe)",
    r"[A-Z][a-z]{1,8}( [A-Z][a-z]{1,8})?",
    r"[0-9]{1,3}(\.[0-9]{1,3}){3}",
    r"(é|日本|😀){1,3}",
    r"[^\x00-\x7f]{1,3}",
    r"(?i)name: [a-c]{1,5}",
    r"\{\"a\": (true|false)\}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_whatever_is_sampled_matches(
    pattern: str, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = compiled(pattern_source(pattern), vocabulary)
    walker = Walker(vocabulary, VOCAB_SIZE)
    for seed in range(20):
        text = walker.text(started(factory, grammar), seed).decode()
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_token_is_allowed_where_its_bytes_are(
    pattern: str, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = compiled(pattern_source(pattern), vocabulary)
    taken: list[int] = []
    for allowed, token_id in Walker(vocabulary, VOCAB_SIZE).steps(started(factory, grammar), 4):
        for candidate, text in enumerate(vocabulary.tokens):
            if text is not None and len(text) > 1:
                guide = started(factory, grammar)
                for earlier in taken:
                    guide.advance(earlier)
                assert (candidate in allowed) is spells_on(guide, vocabulary, text), text
        taken.append(token_id)


@pytest.mark.parametrize(
    "pattern",
    # None in which a match can go on: there outlines_core by itself loses tokens.
    [r"[0-9]{3}-[0-9]{4}", "(yes|no|maybe)", "[a-z]{1,3}", "#[0-9a-f]{6}", r'\{"a": (true|0)\}'],
)
def test_masks_equal_those_of_outlines_core_itself(
    pattern: str, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    """Token by token, with the plain expression and nothing of ours around it."""
    plain = Vocabulary(EOS_TOKEN_IDS[0], vocabulary.ids_by_bytes())
    theirs = OutlinesGuide(Index(pattern, plain))
    guide = started(factory, compiled(pattern_source(pattern), vocabulary))
    for allowed, token_id in Walker(vocabulary, VOCAB_SIZE).steps(guide, seed=1):
        expected = set(theirs.get_tokens()) - {EOS_TOKEN_IDS[0]}
        assert set(allowed) == expected | (set(EOS_TOKEN_IDS) if theirs.is_finished() else set())
        if token_id in EOS_TOKEN_IDS:
            assert theirs.is_finished()
        else:
            theirs.advance(token_id)


@pytest.mark.parametrize(
    "options",
    [
        ["New", "New York", "York"],
        ["New York", "New"],
        ["", "x"],
        ["a.b", "a*", "(", "[x]", "\\d", "^", "$", "a b#~-&"],
        ["😀", "日本", "line\nbreak", "tab\t", "\x00"],
        ["same", "same"],
    ],
)
def test_every_option_can_be_written_and_nothing_else(
    options: list[str], factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = compiled(choice_source(options), vocabulary)
    walker = Walker(vocabulary, VOCAB_SIZE)
    for option in options:
        assert spells(started(factory, grammar), vocabulary, option)
    for seed in range(30):
        assert walker.text(started(factory, grammar), seed).decode() in options


def test_a_finished_guide_says_so(factory: GuideFactory, vocabulary: TokenVocabulary) -> None:
    guide = started(factory, compiled(choice_source(["a", "ab"]), vocabulary))
    states = []
    for text in (b"a", b"b"):
        guide.advance(vocabulary.ids_by_bytes()[text][0])
        states.append((guide.accepts_eos, guide.finished))
    assert states == [(True, False), (True, True)]
    assert allowed_ids(guide, VOCAB_SIZE) == sorted(EOS_TOKEN_IDS)


def test_control_tokens_and_the_start_mark_are_never_allowed(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = compiled(".{0,8}", vocabulary)
    text_ids = {i for i, text in enumerate(vocabulary.tokens) if text is not None}
    for allowed, _ in Walker(vocabulary, VOCAB_SIZE).steps(started(factory, grammar), seed=2):
        assert text_ids.union(EOS_TOKEN_IDS).issuperset(allowed)


@pytest.mark.parametrize("pattern", ["(^a|b)", r"(?:\Aa)", r"a\b", r"x\B", "(?m)^a"])
def test_look_behind_in_disguise_raises_value_error(
    pattern: str, vocabulary: TokenVocabulary
) -> None:
    with pytest.raises(ValueError, match=r"DFA|anchor"):
        compile_source(pattern, index_vocabulary(vocabulary))


@pytest.mark.parametrize(
    "pattern",
    [
        ".{0,60};",
        r"[a-z].{0,60}\.",
        "[^a]{1,60};",
        r"\D{1,60};",
        r"\W{1,60}a",
        r"\S{1,60} ",
        r"[^\d\s]{0,60}x",
        r"[^[:^alpha:]]{0,60}1",
    ],
)
def test_many_places_to_begin_at_cost_nothing(pattern: str, vocabulary: TokenVocabulary) -> None:
    """Each would take 2 to the 60 states if the mark could be matched inside it."""
    assert compile_source(pattern_source(pattern), index_vocabulary(vocabulary))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"[]a]+", "]a", "b"),
        (r"[^]a]+", "bc", "]"),
        (r"[^-a]+", "bc", "-"),
        (r"[^a-c]+", "de", "b"),
        (r"[^\]a]+", "bc", "]"),
        (r"[a-f&&[^c]]+", "ab", "c"),
        (r"[[^a]&&[^b]]+", "cd", "a"),
        (r"[^[:digit:]]+", "ab", "1"),
        (r"\[\^a\]", "[^a]", "x"),
        (r"\.[.]", "..", "a."),
        (r"(?s).+", "a\nb", ""),
        (r".+", "ab", "a\nb"),
        (r"(?i)[^A]+", "bc", "a"),
        (r"\x{5E}\^[\^^]", "^^^", "^^a"),
        (r"\p{Cyrillic}\P{Cyrillic}", "жa", "aж"),
        (r"\D\W\S", "a-b", "1-b"),
        (r"[^ -~]+", "é日", "a"),
        (r"(a|b$)c?", "ac", "bc"),
    ],
)
def test_what_is_done_to_a_pattern_does_not_change_it(
    pattern: str, yes: str, no: str, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = compiled(pattern_source(pattern), vocabulary)
    assert spells(started(factory, grammar), vocabulary, yes)
    assert not spells(started(factory, grammar), vocabulary, no)


@pytest.mark.parametrize("limits", [{"cpu_seconds": 1}, {"memory_bytes": 192 * 2**20}])
def test_a_child_ends_itself_at_its_limits(
    limits: dict[str, int], vocabulary: TokenVocabulary
) -> None:
    """No parent kills it here; the time limit is only there to end a failing test."""
    bounds = {"memory_bytes": 2**33, "cpu_seconds": 60, "max_index_bytes": 2**20} | limits
    request = CompileRequest(source=BOMB_PATTERNS["long_text"], **bounds)
    binary = index_vocabulary(vocabulary).__reduce__()[1][0]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lorax_serve.grammar.compile_child"],
        input=request.header() + binary,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == b""


def test_importing_the_child_runs_nothing() -> None:
    code = "import lorax_serve.grammar.compile_child, resource; " + (
        "assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120, env=os.environ)
