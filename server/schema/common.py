"""From request bytes to a frozen struct, once, at the door.

A field is one of five: served (in the struct), null (the same as absent), unserved (it promises an
effect we do not give: refused by name unless its value asks for nothing), tolerated (documented as
without effect here), or unknown. An unknown field that looks like a constraint on the output is
refused, because dropping it would silently change the answer; any other is reported back by name.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import MalformedBody, ServeError

MAX_FIELD_BYTES = 256 * 1024  # of one field, the prompt aside; and of all unknown fields together
MAX_NEUTRAL_BYTES = 64  # of a value that asks for nothing
MAX_UNKNOWN_FIELDS = 64
SHOWN_NAME_LENGTH = 64

CONSTRAINT_NAME = re.compile(
    r"guided|structured|schema|grammar|regex|constrain|response_?format|json_?(mode|object)", re.I
)
CONSTRAINT_FIELDS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "json_schema",
)
LIKENESS = 0.75  # of names, as difflib measures it; `response_fromat` scores 0.93

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

ABSENT = Raw(b"null")  # a field kept as JSON, not given; `Raw | None` would accept null alone


def unsupported(name: str, hint: str = "") -> ServeError:
    """The refusal of a field whose effect is not served."""
    sentence = f"`{name}` is not supported by this server{'; ' + hint if hint else ''}."
    return ServeError(ErrorCode.UNSUPPORTED_PARAMETER, sentence, param=name)


def invalid(name: str, problem: str) -> ServeError:
    """The refusal of a value: "`name` problem."."""
    return ServeError(ErrorCode.INVALID_REQUEST, f"`{name}` {problem}.", param=name)


def check_adapter_source(source: str, name: str) -> None:
    """Raises ServeError for any source of adapters but this machine's folders."""
    if source.lower() != "local":
        raise unsupported(name, "only `local` adapters are served")


def given_json(raw: Raw) -> bytes | None:
    """The JSON of a field kept as it came; None when it is absent or null."""
    return None if bytes(raw) == b"null" else bytes(raw)


class ObjectShape(Generic[S]):
    """How one JSON object is read: its struct, and what to do with every other field.

    `unserved` maps a name to the values that ask for nothing; fields named in `large` may exceed
    MAX_FIELD_BYTES; `path` ("parameters.") prefixes names in messages.
    """

    def __init__(
        self,
        struct: type[S],
        *,
        unserved: Mapping[str, tuple[object, ...]],
        tolerated: Iterable[str] = (),
        large: Iterable[str] = (),
        path: str = "",
    ) -> None:
        self._struct = struct
        self._served = frozenset(f.encode_name for f in msgspec.structs.fields(struct))
        self._unserved = dict(unserved)
        self._tolerated = frozenset(tolerated)
        self._large = frozenset(large)
        self._path = path
        self._recognised = self._served | self._unserved.keys() | self._tolerated
        self._probe = msgspec.defstruct(
            "Probe", [(name, Raw, Raw()) for name in sorted(self._recognised)]
        )

    def parse(self, raw: bytes) -> tuple[S, tuple[str, ...]]:
        """The struct, and the names of unknown fields that were left out.

        Raises MalformedBody when the bytes are not JSON, ServeError when they do not fit.
        """
        self._check_unknown_size(raw)
        present: dict[str, Raw] = {}
        ignored: list[str] = []
        for name, value in decode(raw, dict[str, Raw], self._path).items():
            if bytes(value) == b"null":
                continue
            if name in self._served:
                self._check_field_size(name, value)
                present[name] = value
            elif name in self._unserved:
                self._check_neutral(name, value)
            elif name not in self._tolerated:
                ignored.append(_name_of_unknown(name, self._path))
                _check_number_of_unknown(ignored)
        return decode(msgspec.json.encode(present), self._struct, self._path), tuple(ignored)

    def _check_unknown_size(self, raw: bytes) -> None:
        """Bounds the work of telling unknown fields by name; skipping over them is cheap."""
        if len(raw) <= MAX_FIELD_BYTES:
            return
        known = decode(raw, self._probe, self._path)
        num_known = sum(len(bytes(getattr(known, name))) for name in self._recognised)
        if len(raw) - num_known > MAX_FIELD_BYTES:
            raise ServeError(ErrorCode.INVALID_REQUEST, "The body holds too much besides a prompt.")

    def _check_field_size(self, name: str, value: Raw) -> None:
        if name not in self._large and len(bytes(value)) > MAX_FIELD_BYTES:
            raise invalid(self._path + name, f"is larger than {MAX_FIELD_BYTES // 1024} KiB")

    def _check_neutral(self, name: str, value: Raw) -> None:
        if len(bytes(value)) <= MAX_NEUTRAL_BYTES:
            given = decode(bytes(value), object, self._path)
            if any(type(given) is type(n) and given == n for n in self._unserved[name]):
                return
        raise unsupported(self._path + name)


def decode(raw: bytes, shape: type[T], path: str = "") -> T:
    """JSON into a type. Raises MalformedBody, or ServeError naming the field under `path`."""
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), path) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedBody("The body is not valid JSON.") from None
    except RecursionError:
        raise MalformedBody("The JSON is nested too deeply.") from None


def _misfit(text: str, path: str) -> ServeError:
    """msgspec says "Expected `int`, got `str` - at `$.max_tokens`"; say it without any value."""
    problem, _, place = text.partition(" - at `$")
    field = f"{path}{place.rstrip('`').lstrip('.')}".rstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", problem):
        field = f"{field}.{missing[1]}".lstrip(".")
        return ServeError(ErrorCode.INVALID_REQUEST, f"`{field}` is required.", param=field)
    if problem.startswith("Invalid "):
        problem = "value not accepted"
    elif problem.startswith("Object contains unknown field"):
        problem = "unknown field inside"
    if not field:
        return ServeError(ErrorCode.INVALID_REQUEST, f"The body does not fit: {problem}.")
    return ServeError(ErrorCode.INVALID_REQUEST, f"`{field}`: {problem}.", param=field)


def _name_of_unknown(name: str, path: str) -> str:
    """The name, shortened for show. Raises ServeError when it resembles a constraint."""
    shown = name[:SHOWN_NAME_LENGTH]
    alike = difflib.get_close_matches(shown.lower(), CONSTRAINT_FIELDS, 1, LIKENESS)
    if alike or CONSTRAINT_NAME.search(name):
        hint = f"did you mean `{alike[0]}`" if alike else "it looks like an output constraint"
        raise unsupported(path + shown, hint)
    return path + shown


def _check_number_of_unknown(ignored: list[str]) -> None:
    if len(ignored) > MAX_UNKNOWN_FIELDS:
        raise ServeError(ErrorCode.INVALID_REQUEST, "The body has too many unknown fields.")
