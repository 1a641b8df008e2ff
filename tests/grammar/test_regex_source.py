import pytest

from lorax_serve.grammar.errors import InvalidGrammar
from lorax_serve.grammar.regex_source import choice_source, pattern_source


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        ("abc", "abc"),
        ("^abc$", "abc"),
        (r"\Aabc\z", "abc"),
        (r"\Aabc\Z", "abc"),
        ("^foo|bar$", "foo|bar"),
        (r"cost: \$", r"cost: \$"),
        (r"back\\$", r"back\\"),
        (r"back\\z", r"back\\z"),
        ("[$]", "[$]"),
        ("^", ""),
        ("$", ""),
        ("", ""),
    ],
)
def test_only_outermost_unescaped_anchors_go(pattern: str, source: str) -> None:
    assert pattern_source(pattern) == source


def test_options_are_literal_and_distinct() -> None:
    assert choice_source(["a.b", "é", "a.b", ""]) == r"a\x{2E}b|\x{E9}|"


@pytest.mark.parametrize("text", [1, None, b"a", ["a"]])
def test_other_types_are_refused_by_name(text: object) -> None:
    with pytest.raises(InvalidGrammar, match=f"got a {type(text).__name__}"):
        pattern_source(text)  # type: ignore[arg-type]
