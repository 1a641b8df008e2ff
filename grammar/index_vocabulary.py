r"""How a regular expression becomes an outlines_core index, so that it means `re.fullmatch`.

outlines_core builds a DFA that searches: it may begin anywhere, prefers the first alternative and
notices a match one byte late. Compiled as they stand, `a|ab` never matches "ab", `a( b)?` allows no
token " " after "a", and `[a-z].{0,20};` takes 2 to the 20 states for all the places to begin at. So

- the expression is ended with `\z`, which makes every alternative reach the end of the text;
- it is begun with a character that no text holds, spelled by a token that no model has, which
  leaves one place to begin at. A guide takes that token first;
- `.` and negated classes are told not to match that character.
"""

import re
from collections.abc import Iterator

from outlines_core import Vocabulary

from lorax_serve.grammar.vocabulary import TokenVocabulary

START_MARK = "\U0010ffff"  # a noncharacter: Unicode promises that no text will use it
MARK_SOURCE = rf"\x{{{ord(START_MARK):X}}}"

PART = re.compile(
    r"(?P<escape>\\(?:[pPxuU]\{[^}]*\}|.))"
    r"|(?P<posix>\[:\^?\w+:\])"
    r"|(?P<open>\[\^?\]?)"
    r"|(?P<close>\])"
    r"|(?P<other>.)",
    re.DOTALL,
)
CHANGED_DOT = re.compile(r"\(\?[a-zA-Z-]*[sR]")  # flags under which `.` means something else
CLASS_SYNTAX = frozenset("]-&~^")  # after `[^`, what an inserted character would give new meaning


def start_mark_id(num_tokens: int) -> int:
    """The id of START_MARK: the first one that no token has."""
    return num_tokens


def index_vocabulary(vocabulary: TokenVocabulary) -> Vocabulary:
    """Every text token, and START_MARK."""
    ids_by_bytes = vocabulary.ids_by_bytes()
    ids_by_bytes[START_MARK.encode()] = [start_mark_id(vocabulary.num_tokens)]
    return Vocabulary(vocabulary.eos_token_ids[0], ids_by_bytes)


def marked_source(source: str) -> str:
    """`source`, a valid expression, as it is compiled.

    Raises ValueError for a start-of-text anchor, which behind the mark would never match.
    """
    return rf"{MARK_SOURCE}(?:{''.join(_unmarked_parts(source))})\z"


def _unmarked_parts(source: str) -> Iterator[str]:
    """The source piece by piece, without the mark in whatever can be kept from matching it."""
    dot = "." if CHANGED_DOT.search(source) else rf"[^\n{MARK_SOURCE}]"
    depth = 0  # of nested classes
    for part in PART.finditer(source):
        text = part[0]
        if part["open"]:
            depth += 1
            following = source[part.end() : part.end() + 1]
            if text == "[^" and following not in CLASS_SYNTAX:
                text += MARK_SOURCE
        elif part["close"]:
            depth -= 1
        elif depth == 0 and text in ("^", r"\A"):
            raise ValueError("an anchor inside the expression")
        elif depth == 0 and text == ".":
            text = dot
        elif depth == 0 and text in (r"\D", r"\W", r"\S"):
            text = f"[{text}--{MARK_SOURCE}]"
        yield text
