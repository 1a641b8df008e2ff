"""JSON values that a schema allows, and what is done to them so that it does not any more."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from hypothesis import strategies as st

Schema = Mapping[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

MAX_DEPTH: Final = 4  # of objects that schemas nest
MAX_OPTIONAL: Final = 5  # fields of an object that need not be there
SMALL: Final = 24  # so that accepted requests are answered soon

TEXTS: Final = (
    "",
    "hi",
    "a b",
    "é",
    "你好 😀",
    "<|im_end|>",
    "\x00",
    "x" * 300,
    "{",
    "\u202e\ufeff",
)

# Written into the JSON as they are; json.dumps writes none of them.
RAW: Final = (
    "NaN",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e-99",
    "9" * 400,
    "-" + "9" * 400,
    "0.1e1",
    "01",
    "-0",
    '"\\ud800"',
    '"\\udc00\\ud800"',
    "[" * 400 + "]" * 400,
    '{"a":' * 150 + "1" + "}" * 150,
    "nul",
    "",
    "'x'",
)
WRONG: Final = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    2**53 + 1,
    -(2**63),
    2**63,
    2**64,
    10**30,
    0.5,
    -0.0,
    1.0,
    1e308,
    5e-324,
    *TEXTS,
    [],
    {},
    [None],
    [[]],
    ["x"] * 20,
    {"": None},
    {"type": "object"},
    {"$ref": "#"},
)
NAMES: Final = (
    "",
    "unknown",
    "format",
    "guided_jsn",
    "__class__",
    "x" * 200,
    "n",
    "tools",
    "é\r\nx: y",
    "best_of",
)


class ValidJson:
    """Draws values of the schemas of one document; `hints` are values of fields of that name."""

    def __init__(self, document: Schema, hints: Mapping[str, tuple[Any, ...]]) -> None:
        self._schemas: Mapping[str, Schema] = document["components"]["schemas"]
        self._hints = hints

    def draw(self, draw: Draw, schema: Schema, depth: int = 0, name: str = "") -> Any:
        if name in self._hints and draw(st.integers(0, 3)):
            return draw(st.sampled_from(self._hints[name]))
        if "$ref" in schema:
            named = self._schemas[schema["$ref"].rpartition("/")[2]]
            return self.draw(draw, named, depth + 1)
        if "anyOf" in schema:
            options = schema["anyOf"] if depth < MAX_DEPTH else [schema["anyOf"][-1]]
            return self.draw(draw, draw(st.sampled_from(options)), depth)
        if "enum" in schema:
            return draw(st.sampled_from(schema["enum"]))
        match schema.get("type"):
            case "object":
                return self._object(draw, schema, depth)
            case "array":
                low = schema.get("minItems", 0)
                length = draw(st.integers(low, min(low + 2, schema.get("maxItems", low + 2))))
                return [self.draw(draw, schema["items"], depth + 1) for _ in range(length)]
            case "string" if "pattern" in schema:
                return draw(st.from_regex(schema["pattern"], fullmatch=True))
            case "string":
                low, high = schema.get("minLength", 0), schema.get("maxLength", 1000)
                return draw(st.sampled_from([t for t in TEXTS if low <= len(t) <= high]))
            case "integer":
                return draw(st.integers(*_small_range(schema)))
            case "number":
                low, high = schema.get("minimum", -10), schema.get("maximum", 10)
                return draw(st.sampled_from([low, high, (low + high) / 2]))
            case "boolean":
                return draw(st.booleans())
            case "null":
                return None
            case _:
                return draw(st.sampled_from(WRONG))

    def _object(self, draw: Draw, schema: Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        optional = [name for name in properties if name not in required]
        if draw(st.integers(0, 5)):  # mostly fields that can say something
            optional = [name for name in optional if "description" not in properties[name]]
        chosen = list(required)
        if optional and depth < MAX_DEPTH:
            some = st.lists(st.sampled_from(optional), max_size=MAX_OPTIONAL, unique=True)
            chosen += draw(some)
            if "parameters" in optional and "parameters" not in chosen:  # where LoRAX has it all
                chosen.append("parameters")
        drawn = {name: self.draw(draw, properties[name], depth, name) for name in chosen}
        if isinstance(values := schema.get("additionalProperties"), dict) and depth < MAX_DEPTH:
            keys = draw(st.lists(st.sampled_from(("1", "a", "type")), max_size=2, unique=True))
            drawn |= {key: self.draw(draw, values, depth + 1) for key in keys}
        return drawn


def _small_range(schema: Schema) -> tuple[int, int]:
    low = max(schema.get("minimum", -SMALL), -SMALL)
    return low, max(low, min(schema.get("maximum", SMALL), SMALL))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in it with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def mutated(draw: Draw, value: Any) -> bytes:
    """The JSON of it with one to three changes, and maybe a token in it that no encoder writes."""
    changed = copy.deepcopy(value)
    raw: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(changed))
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(("drop", "wrong", "wrong", "raw", "add", "rename", "wrap"))):
            case "drop":
                del container[key]
            case "wrong":
                container[key] = copy.deepcopy(draw(st.sampled_from(WRONG)))
            case "raw":
                container[key] = f"@raw{len(raw)}@"
                raw.append(draw(st.sampled_from(RAW)))
            case "wrap":
                container[key] = [container[key]]
            case "add" if isinstance(container, dict):
                container[draw(st.sampled_from(NAMES))] = copy.deepcopy(
                    draw(st.sampled_from(WRONG))
                )
            case "rename" if isinstance(container, dict):
                container[draw(st.sampled_from(NAMES))] = container.pop(key)
    return written(draw, changed, raw)


def written(draw: Draw, value: Any, raw: list[str]) -> bytes:
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    for number, token in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', token)
    return text.encode(errors="surrogatepass")


def damaged(draw: Draw, body: bytes) -> bytes:
    """The same bytes with something that is no JSON, or no UTF-8."""
    at = draw(st.integers(0, len(body)))
    match draw(st.integers(0, 8)):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + draw(st.sampled_from((b"\xff", b"\xc3", b"\x00", b"\xed\xa0\x80")))
        case 2:
            return body[:at] + draw(st.binary(min_size=1, max_size=8)) + body[at:]
        case 3:
            return b"\xef\xbb\xbf" + body
        case 4:
            return body + draw(st.sampled_from((b"}", b" {}", b",", b"\n\n", b"\x00")))
        case 5:
            return body.decode(errors="replace").encode("utf-16")
        case 6:
            return draw(st.sampled_from((b"", b" ", b"null", b"[]", b'"x"', b"7", b"{}", b"{")))
        case 7:
            return b"[" * at + body
        case _:
            return body.replace(b'"', b"'")
