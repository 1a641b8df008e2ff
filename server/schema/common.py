"""From request bytes to a frozen struct, once, at the door.

A field is one of five: served (in the struct), null (the same as absent), unserved (it promises an
effect we do not give: refused by name unless its value asks for nothing), tolerated (documented as
without effect here), or unknown. An unknown field that looks like a constraint on the output is
refused, because dropping it would silently change the answer; any other is reported back by name.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import MalformedBody, ServeError

MAX_FIELD_BYTES = 256 * 1024  # of one field, the prompt aside; and of all unknown fields together
MAX_NEUTRAL_BYTES = 64  # of a value that asks for nothing
MAX_UNKNOWN_FIELDS = 64
SHOWN_NAME_LENGTH = 64

CONSTRAINT_NAME = re.compile(
    r"guided|guidance|structur(ed|al)|schema|grammar|ebnf|lark|outlines|regex|constrain"
    r"|(response|output)_?format|json_?(mode|object)|^(json|format|pattern|choices?)$",
    re.I,
)
CONSTRAINT_FIELDS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "json_schema",
)
WHOSE_FIELDS = ("adapter_id", "adapter_source", "merged_adapters")  # left out: another's answer
LIKENESS = 0.75  # of names, as difflib measures it; `response_fromat` scores 0.93

# Refused on every API: each promises something about the tokens or the texts of an answer. The
# values that ask for nothing are accepted.
OUTPUT_CONTROLS: dict[str, tuple[object, ...]] = {
    "allowed_token_ids": (),
    "bad_words": ([],),
    "best_of": (1,),
    "decoder_input_details": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "merged_adapters": (),
    "min_tokens": (0,),
    "n": (1,),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "tool_choice": ("none",),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "watermark": (False,),
}

_UNKNOWN_FIELD = re.compile(
    r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<place>[^`]*)`)?", re.S
)
NO_NUMBER = re.compile(rb"NaN|Infinity")
LONE_SURROGATE = re.compile(  # behind a backslash that no other one escapes
    rb"(?<!\\)(?:\\\\)*(?:"
    rb"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}"
    rb")",
    re.I,
)

# A credential for an adapter's source, which goes into a header there.
AdapterToken = Annotated[str, Meta(max_length=4096, pattern=r"\A[\x21-\x7e]*\Z")]

JSON_OF: Final = "json_of"

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


def json_of(kind: object) -> Meta:
    """What a Raw field holds: `Annotated[Raw, json_of(dict[str, int])]`.

    Nothing is checked by it; the OpenAPI document says it.
    """
    return Meta(extra={JSON_OF: kind})


def given_json(raw: Raw) -> bytes | None:
    """The JSON of a field kept as it came; None when it is absent or null."""
    return None if bytes(raw) == b"null" else bytes(raw)


class ObjectShape(Generic[S]):
    """How one JSON object is read: its struct, and what to do with every other field.

    `unserved` maps a name to the values that ask for nothing; fields named in `large` may exceed
    MAX_FIELD_BYTES; `meant` says of fields that clients take for others what to write instead;
    `path` ("parameters.") prefixes names in messages.
    """

    def __init__(
        self,
        struct: type[S],
        *,
        unserved: Mapping[str, tuple[object, ...]],
        tolerated: Iterable[str] = (),
        large: Iterable[str] = (),
        meant: Mapping[str, str] = MappingProxyType({}),
        path: str = "",
    ) -> None:
        self.struct = struct
        self.served = frozenset(f.encode_name for f in msgspec.structs.fields(struct))
        self.unserved = dict(unserved)
        self.tolerated = frozenset(tolerated)
        self._large = frozenset(large)
        self._meant = dict(meant)
        self._path = path
        self._constraints = sorted(self.served.intersection(CONSTRAINT_FIELDS))
        self._whose = sorted(self.served.intersection(WHOSE_FIELDS))
        self._recognised = self.served | self.unserved.keys() | self.tolerated
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
            if name in self.served:
                self._check_field_size(name, value)
                present[name] = value
            elif name in self.unserved:
                self._check_neutral(name, value)
            elif name not in self.tolerated:
                ignored.append(self._name_of_unknown(name))
                _check_number_of_unknown(ignored)
        return decode(msgspec.json.encode(present), self.struct, self._path), tuple(ignored)

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
            if any(type(given) is type(n) and given == n for n in self.unserved[name]):
                return
        raise unsupported(self._path + name)

    def _name_of_unknown(self, name: str) -> str:
        """The name, shortened for show. Raises ServeError when it resembles a constraint or a field
        that says whose answer is wanted, or is known to be meant for another field.
        """
        shown = self._path + name[:SHOWN_NAME_LENGTH]
        if name in self._meant:
            raise unsupported(shown, f"write `{self._meant[name]}`")
        if meant := _alike(name, self._whose):
            raise unsupported(shown, f"did you mean `{self._path}{meant[0]}`")
        if not (_alike(name, CONSTRAINT_FIELDS) or CONSTRAINT_NAME.search(name)):
            return shown
        meant = _alike(name, self._constraints)
        hint = f"did you mean `{self._path}{meant[0]}`" if meant else "it looks like a constraint"
        raise unsupported(shown, hint)


def _alike(name: str, fields: Sequence[str]) -> list[str]:
    """The field that `name` may be meant for, if any."""
    shown = name[:SHOWN_NAME_LENGTH].lower()
    return difflib.get_close_matches(shown, fields, 1, LIKENESS)


def decode(raw: bytes, shape: type[T], path: str = "") -> T:
    """JSON into a type. Raises MalformedBody, or ServeError naming the field under `path`."""
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), path) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(_flaw(raw, str(error))) from None
    except RecursionError:
        raise MalformedBody("The JSON is nested too deeply.") from None


def _flaw(raw: bytes, problem: str) -> str:
    """What is wrong with bytes that msgspec cannot read, of which it told the place at best."""
    if not raw.strip():
        return "The body is empty."
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "The body is not UTF-8."
    place = re.search(r"\(byte (\d+)\)", problem)
    if place is not None and NO_NUMBER.match(raw, int(place[1])):
        return "NaN and Infinity are no JSON numbers."
    if LONE_SURROGATE.search(raw):
        return "The body has an escaped surrogate without its pair, which is no Unicode text."
    return "The body is not valid JSON."


def _misfit(text: str, path: str) -> ServeError:
    """msgspec says "Expected `int`, got `str` - at `$.max_tokens`"; say it without any value."""
    if unknown := _UNKNOWN_FIELD.fullmatch(text):
        inside = f"{path}{(unknown['place'] or '').lstrip('.')}".rstrip(".")
        name = unknown["name"][:SHOWN_NAME_LENGTH]
        return invalid(f"{inside}.{name}".lstrip("."), "is no field that is known here")
    problem, _, place = text.partition(" - at `$")
    field = f"{path}{place.rstrip('`').lstrip('.')}".rstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", problem):
        field = f"{field}.{missing[1]}".lstrip(".")
        return ServeError(ErrorCode.INVALID_REQUEST, f"`{field}` is required.", param=field)
    if problem.startswith("Invalid "):
        problem = "value not accepted"
    if not field:
        return ServeError(ErrorCode.INVALID_REQUEST, f"The body does not fit: {problem}.")
    return ServeError(ErrorCode.INVALID_REQUEST, f"`{field}`: {problem}.", param=field)


def _check_number_of_unknown(ignored: list[str]) -> None:
    if len(ignored) > MAX_UNKNOWN_FIELDS:
        raise ServeError(ErrorCode.INVALID_REQUEST, "The body has too many unknown fields.")
