"""Typed reading of a JSON object that names the field in every refusal."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorax_serve.engine.models.registry import refusal


class JsonFields:
    """A JSON object whose fields are read one by one; it remembers which were.

    A field that is null counts as absent, except in `is_null`.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where
        self._read: set[str] = set()

    @property
    def unread(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._values) - self._read))

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._values.get(name)

    def is_null(self, name: str) -> bool:
        """Present, and null."""
        return name in self._values and self._values[name] is None

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < minimum:
            raise self.wrong(name, value, f"an integer of at least {minimum}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self.wrong(name, value, "a positive number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.get(name)
        if value is None:
            return default
        if type(value) is not str:
            raise self.wrong(name, value, "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; absent is empty."""
        value = self.get(name)
        if value is None:
            return ()
        if type(value) is not list or any(type(item) is not str for item in value):
            raise self.wrong(name, value, "a list of strings")
        return tuple(value)

    def section(self, name: str) -> "JsonFields | None":
        value = self.get(name)
        if value is None:
            return None
        if type(value) is not dict:
            raise self.wrong(name, value, "an object")
        return JsonFields(value, f"{self._where}: {name}")

    def wrong(self, name: str, value: Any, expected: str) -> Exception:
        found = "is missing" if value is None else f"is {json.dumps(value)[:80]}"
        return refusal(f"{self._where}: {name} {found}, expected {expected}")


def read_json(file: Path) -> JsonFields:
    """Raises ModelRefused when the file is missing or holds no JSON object."""
    try:
        values = json.loads(file.read_bytes())
    except OSError as error:
        raise refusal(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise refusal(f"{file} is not JSON ({error})") from error
    if type(values) is not dict:
        raise refusal(f"{file} holds no JSON object")
    return JsonFields(values, file.name)
