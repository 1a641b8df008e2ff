"""What a client's pattern or list of choices is as the source of a regular expression."""

from collections.abc import Sequence

from llguidance import LLMatcher

from lorax_serve.grammar.errors import GrammarTooComplex, InvalidGrammar
from lorax_serve.grammar.parser_limits import parser_limits
from lorax_serve.grammar.schema_messages import pattern_error

MAX_PATTERN_CHARACTERS = 4096
MAX_CHOICES = 1000
MAX_CHOICE_CHARACTERS = 16 * 2**10  # of all choices together

OPENING_ANCHORS = ("^", r"\A")
CLOSING_ANCHORS = ("$", r"\Z", r"\z")


def pattern_source(pattern: str) -> str:
    """The pattern, known to be one, without outermost anchors: all of a text must match anyway.

    Raises InvalidGrammar, GrammarTooComplex.
    """
    _check_text(pattern)
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise GrammarTooComplex(f"The regex is longer than {MAX_PATTERN_CHARACTERS} characters.")
    for anchor in OPENING_ANCHORS:
        pattern = pattern.removeprefix(anchor)
    for anchor in CLOSING_ANCHORS:
        if pattern.endswith(anchor) and not _is_escaped(pattern, len(pattern) - len(anchor)):
            pattern = pattern.removesuffix(anchor)
            break
    _check_syntax(pattern)
    return pattern


def choice_source(options: Sequence[str]) -> str:
    """Any one of the options, literally. Raises InvalidGrammar, GrammarTooComplex."""
    if not options:
        raise InvalidGrammar("A choice needs at least one option.")
    if len(options) > MAX_CHOICES:
        raise GrammarTooComplex(f"A choice has more than {MAX_CHOICES} options.")
    for option in options:
        _check_text(option)
    if sum(map(len, options)) > MAX_CHOICE_CHARACTERS:
        raise GrammarTooComplex(f"The choices are over {MAX_CHOICE_CHARACTERS} characters long.")
    return "|".join(_literal(option) for option in dict.fromkeys(options))


def _check_syntax(pattern: str) -> None:
    """outlines_core does not say what is wrong; llguidance uses the same parser and does."""
    is_error, findings = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_regex(pattern), limits=parser_limits()
    )
    reason = pattern_error(findings[0]) if is_error else None
    if reason is not None:
        raise InvalidGrammar(f"The regex is refused: {reason}.")


def _literal(text: str) -> str:
    """By code point wherever a character could mean something else than itself."""
    return "".join(c if c.isascii() and c.isalnum() else rf"\x{{{ord(c):X}}}" for c in text)


def _is_escaped(pattern: str, position: int) -> bool:
    before = pattern[:position]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InvalidGrammar(f"expected a string, got a {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidGrammar("The text holds half a character (a lone surrogate).") from error
