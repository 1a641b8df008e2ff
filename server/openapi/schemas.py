"""JSON schemas of the structs that requests are read into and replies are written from.

msgspec makes schemas too, but does not know what a Raw field holds, nor what an ObjectShape does
with a null and with fields that its struct lacks.
"""

import builtins
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import NODEFAULT, Struct, inspect

from lorax_serve.server.schema import common
from lorax_serve.server.schema.common import ObjectShape

Schema = dict[str, Any]

_NULL: Final[Schema] = {"type": "null"}
_BOUNDS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}


class Components:
    """Every struct that was asked for, and what those hold, once each under a name of its own."""

    def __init__(
        self, shapes: Iterable[ObjectShape[Any]], names: Mapping[type[Struct], str]
    ) -> None:
        """`names`: of structs whose class has a name that others have too, or that says little."""
        self.schemas: dict[str, Schema] = {}
        self._shapes = {shape.struct: shape for shape in shapes}
        self._names = names
        self._structs: dict[str, tuple[type[Struct], bool]] = {}

    def request(self, kind: object) -> Schema:
        """What a client may send; a field with a default may be absent."""
        return self._schema(inspect.type_info(kind), is_reply=False)

    def reply(self, kind: object) -> Schema:
        """What a client gets: every field, but those that may be UNSET."""
        return self._schema(inspect.type_info(kind), is_reply=True)

    def _schema(self, info: inspect.Type, *, is_reply: bool) -> Schema:
        def inner(each: inspect.Type) -> Schema:
            return self._schema(each, is_reply=is_reply)

        match info:
            case inspect.Metadata(extra={common.JSON_OF: kind}):
                return inner(inspect.type_info(kind))
            case inspect.Metadata(type=plain):
                return inner(plain)
            case inspect.UnionType(types=types):
                return {"anyOf": [inner(each) for each in types]}
            case inspect.ListType() | inspect.VarTupleType():
                length = _given(minItems=info.min_length, maxItems=info.max_length)
                return {"type": "array", "items": inner(info.item_type), **length}
            case inspect.DictType():
                length = _given(minProperties=info.min_length, maxProperties=info.max_length)
                return {"type": "object", "additionalProperties": inner(info.value_type), **length}
            case inspect.StructType():
                return self._reference(info, is_reply=is_reply)
            case _:
                return _scalar(info)

    def _reference(self, info: inspect.StructType, *, is_reply: bool) -> Schema:
        name = self._names.get(info.cls, info.cls.__name__.lstrip("_"))
        entry = (info.cls, is_reply)
        if self._structs.setdefault(name, entry) != entry:
            raise ValueError(f"{info.cls} is called {name}, and so is another schema")
        if name not in self.schemas:
            self.schemas[name] = {}  # it may hold itself
            self.schemas[name] |= self._object(info, is_reply=is_reply)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, info: inspect.StructType, *, is_reply: bool) -> Schema:
        properties: dict[str, Schema] = {}
        required = []
        for field in info.fields:
            schema = self._schema(field.type, is_reply=is_reply)
            has_default = field.default is not NODEFAULT or field.default_factory is not NODEFAULT
            if field.required or (is_reply and has_default):
                required.append(field.encode_name)
            elif not is_reply and _is_plain(field.default):
                schema = {**schema, "default": field.default}
            properties[field.encode_name] = schema
        if info.cls in self._shapes:
            properties = _shaped(properties, required, self._shapes[info.cls])
        schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if info.forbid_unknown_fields:
            schema["additionalProperties"] = False
        return schema


def _shaped(
    properties: Mapping[str, Schema], required: Iterable[str], shape: ObjectShape[Any]
) -> dict[str, Schema]:
    """Nulls are absent fields; of others some are refused, unless they ask for nothing."""
    shaped = {
        name: schema if name in required else _nullable(schema)
        for name, schema in properties.items()
    }
    for name, neutral in sorted(shape.unserved.items()):
        values = [each for i, each in enumerate(neutral) if each not in neutral[:i]]  # 1 is 1.0
        unserved = {"enum": [*values, None], "description": "Any other value is refused."}
        shaped.setdefault(name, unserved)
    for name in sorted(shape.tolerated):
        shaped.setdefault(name, {"description": "Accepted, and without effect."})
    return shaped


def _nullable(schema: Schema) -> Schema:
    options = schema.get("anyOf", [schema])
    if _NULL in options or schema.keys() <= {"default"}:
        return schema
    plain = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    rest = {key: value for key, value in schema.items() if key == "default"}
    return {"anyOf": [*schema.get("anyOf", [plain]), _NULL], **rest}


def _scalar(info: inspect.Type) -> Schema:
    match info:
        case inspect.NoneType():
            return dict(_NULL)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "integer", **_bounds(info)}
        case inspect.FloatType():
            return {"type": "number", **_bounds(info)}
        case inspect.StrType():
            length = _given(minLength=info.min_length, maxLength=info.max_length)
            return {"type": "string", **length, **_pattern(info.pattern)}
        case inspect.LiteralType(values=values):
            return {"type": "string", "enum": list(values)}
        case inspect.AnyType() | inspect.CustomType(cls=builtins.object):
            return {}
        case _:
            raise TypeError(f"no schema is known for {info}")


def _bounds(info: inspect.IntType | inspect.FloatType) -> Schema:
    return _given(**{word: getattr(info, bound) for bound, word in _BOUNDS.items()})


def _pattern(pattern: str | None) -> Schema:
    """In ECMAScript's words, which are JSON Schema's."""
    return {} if pattern is None else {"pattern": pattern.replace(r"\A", "^").replace(r"\Z", "$")}


def _given(**keywords: object) -> Schema:
    return {word: value for word, value in keywords.items() if value is not None}


def _is_plain(default: object) -> bool:
    """A default worth telling: none that says "absent"."""
    return isinstance(default, bool | int | float | str)
