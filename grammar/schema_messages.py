"""llguidance's findings about a schema, each as one sentence of ours."""

import re
from collections.abc import Sequence

from lorax_serve.grammar.errors import GrammarError, GrammarTooComplex, InvalidGrammar

MAX_QUOTED = 200  # characters of a library's sentence

KEYWORDS = re.compile(r"Unimplemented keys: (\[.*\])")
QUOTED = re.compile(r'"([^"]*)"')
FORMAT = re.compile(r"Unknown format: (.*)")
ONE_OF = re.compile(r"oneOf\b")
REFERENCE = re.compile(r"Resource '(.*)' is not present in a registry")
PATTERN = re.compile(r"regex parse error:.*?\nerror: (.*)", re.DOTALL)
TIMES = re.compile(r" \(\d+ times\)$")
TOO_COMPLEX = re.compile(r"[Tt]oo (big|many|complex|large)|fuel|; max is|Unable to determine")


def refusal(finding: str) -> GrammarError:
    """Why the schema cannot be enforced as it is."""
    if match := KEYWORDS.match(finding):
        return unenforceable(re.findall(QUOTED, match[1]))
    if match := FORMAT.match(finding):
        return InvalidGrammar(f"The schema's format '{quoted(match[1])}' cannot be enforced.")
    if ONE_OF.match(finding):
        return InvalidGrammar(
            "The schema's keyword 'oneOf' cannot be enforced where its alternatives may overlap; "
            "'anyOf' can."
        )
    if match := REFERENCE.match(finding):
        return InvalidGrammar(
            f"The schema refers to '{quoted(match[1])}', which it does not contain; nothing is "
            "fetched."
        )
    if (reason := pattern_error(finding)) is not None:
        return InvalidGrammar(f"A 'pattern' in the schema is refused: {reason}.")
    if TOO_COMPLEX.search(finding):
        return GrammarTooComplex("The schema is too complex.")
    return InvalidGrammar(f"The schema is refused: {quoted(finding)}.")


def unenforceable(keywords: Sequence[str]) -> InvalidGrammar:
    return InvalidGrammar(f"The schema's {_keywords(keywords)} cannot be enforced.")


def inexact_warning(keyword: str) -> str:
    """Of a keyword that `schema_exactness` found."""
    return (
        f"The schema's keyword '{keyword}' is not enforced exactly: a repeated name counts twice."
    )


def warning(finding: str) -> str:
    """What of the schema was not enforced."""
    finding = TIMES.sub("", finding)
    if match := KEYWORDS.match(finding):
        return f"Ignored the schema's {_keywords(re.findall(QUOTED, match[1]))}."
    if match := FORMAT.match(finding):
        return f"Ignored the schema's format '{quoted(match[1])}'."
    if ONE_OF.match(finding):
        return "Enforced the schema's keyword 'oneOf' as 'anyOf'."
    return f"The schema is not enforced exactly: {quoted(finding)}."


def pattern_error(finding: str) -> str | None:
    """What is wrong with a regular expression, if that is what the finding is about."""
    match = PATTERN.search(finding)
    return quoted(match[1]) if match else None


def _keywords(names: Sequence[str]) -> str:
    noun = "keyword" if len(names) == 1 else "keywords"
    return f"{noun} " + ", ".join(f"'{name}'" for name in names)


def quoted(text: str) -> str:
    """The first line of a library's or client's text, short, printable and without a full stop.

    A dump of internals begins at a colon and two spaces.
    """
    first_line = text.strip().splitlines()[0] if text.strip() else ""
    sentence = first_line.split(":  ")[0][:MAX_QUOTED]
    return "".join(c if c.isprintable() else "?" for c in sentence).rstrip(". ")
