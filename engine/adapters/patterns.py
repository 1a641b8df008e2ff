"""Patterns that came with an adapter, matched against module names in linear time.

PEFT matches them with Python's `re`, where a short hostile pattern runs for days. RE2 cannot
backtrack (https://swtch.com/~rsc/regexp/regexp3.html); what it cannot express, such as look-around,
is refused by name. Module names are ASCII, where the two agree on everything else.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

import re2  # type: ignore[import-untyped]

from lorax_serve.engine.adapters.refusal import incompatible, shown

MAX_REGEXES = 256  # of one config field
MAX_NAMES = 2048  # keys that are plain names; EVA writes one for every linear of the model
MAX_LENGTH = 512  # characters of one pattern
# Matching costs at most text length x instructions; an ordinary pattern has about fifty.
MAX_INSTRUCTIONS = 1024  # of one pattern
MAX_TABLE_INSTRUCTIONS = 4096  # of all patterns of one config field
_MAX_REGEX_BYTES = 2**20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\-]+")  # here only "." has a meaning beyond itself

Value = TypeVar("Value")
Matcher = Callable[[str], bool]


def full_matcher(field: str, pattern: str) -> Matcher:
    """`re.fullmatch(pattern, module)`. Raises Refusal naming the config field."""
    return partial(_matches, compile_regex(field, f"(?:{pattern})", pattern))


class PatternTable(Generic[Value]):
    """Values for modules, keyed by patterns in order: PEFT's `get_pattern_key`."""

    def __init__(self, field: str, values: Mapping[str, Value]) -> None:
        """Raises Refusal naming the config field."""
        self._entries: list[tuple[Matcher, Value]] = []
        num_names = num_regexes = num_instructions = 0
        for key, value in values.items():
            if _PLAIN_NAME.fullmatch(key):
                num_names += 1
                matcher = partial(_ends_with_name, length=len(key), chunks=key.split("."))
            else:
                num_regexes += 1
                regex = compile_regex(field, rf"(?:.*\.)?(?:{key})", key)
                num_instructions += regex.programsize
                matcher = partial(_matches, regex)
            if (
                num_names > MAX_NAMES
                or num_regexes > MAX_REGEXES
                or num_instructions > MAX_TABLE_INSTRUCTIONS
            ):
                raise incompatible(f"{field} has more or longer patterns than are served")
            self._entries.append((matcher, value))

    def lookup(self, module: str, default: Value) -> Value:
        """The value of the first key that matches `^(.*\\.)?KEY$`."""
        return next((value for matches, value in self._entries if matches(module)), default)


def compile_regex(field: str, pattern: str, written: str) -> "re2._Regexp":
    """Compile `pattern`, made of what is `written` in the config field. Raises Refusal."""
    if len(written) > MAX_LENGTH:
        raise incompatible(f"{field} has a pattern of more than {MAX_LENGTH} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_REGEX_BYTES
    try:
        if "{," in written:  # RE2 takes it literally, `re` as "up to"
            raise re2.error("open repetition")
        # On its own first: unbalanced parentheses must not pair up with those around them.
        re2.compile(written, options)
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeError):
        raise incompatible(
            f"{field} has the pattern {shown(written)}, which is not a regular expression, or one "
            "with look-around, back-references or other parts that need backtracking"
        ) from None
    finally:
        re2.purge()  # it would keep the last 128 patterns, with all that matching them allocated
    if compiled.programsize > MAX_INSTRUCTIONS:
        raise incompatible(f"{field} has the pattern {shown(written)}, which is too complex")
    return compiled


def _matches(regex: "re2._Regexp", module: str) -> bool:
    return regex.fullmatch(module) is not None


def _ends_with_name(module: str, *, length: int, chunks: Sequence[str]) -> bool:
    """`^(.*\\.)?NAME$`, NAME being the chunks with any one character between each two."""
    position = len(module) - length
    if position < 0 or (position > 0 and module[position - 1] != "."):
        return False
    for chunk in chunks:
        if not module.startswith(chunk, position):
            return False
        position += len(chunk) + 1
    return True
