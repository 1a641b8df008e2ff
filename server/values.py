"""Texts from the command line and the environment, as typed values.

Types and bounds are those of the struct field a text is for.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Final, get_args

import msgspec
from msgspec import inspect

from lorax_serve.server.secret import Secret

_UNITS: Final[Mapping[str, int]] = {"": 1, "b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes from "512MB", "1.5GiB" or "4096". Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError("expected a size such as 512MB or 1GiB")
    return round(float(match[1]) * _UNITS[match[2].lower()])


def parse_field(text: str, field_type: object, *, is_size: bool = False) -> object:
    """`text` as `field_type`, within the type's bounds. Raises ValueError with what is expected."""
    if _allows(Path, field_type):
        return _path(text)
    if _allows(Secret, field_type):
        return Secret(text)
    value = parse_size(text) if is_size else text
    try:
        return msgspec.convert(value, field_type, strict=False)
    except msgspec.ValidationError:
        raise ValueError(f"expected {_expectation(inspect.type_info(field_type))}") from None


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no home folder for ~; name a folder without it") from None


def _allows(kind: type, field_type: object) -> bool:
    return field_type is kind or (
        isinstance(field_type, UnionType) and kind in get_args(field_type)
    )


def _expectation(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=types):
            return _expectation(next(t for t in types if not isinstance(t, inspect.NoneType)))
        case inspect.EnumType(cls=cls):
            return f"one of {', '.join(str(member.value) for member in cls)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=low, le=high):
            return f"a whole number{_range(low, high)}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number{_range(low, high)}"
        case _:
            return "another value"


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f" from {low:g} up" if high is None else f" from {low:g} to {high:g}"
