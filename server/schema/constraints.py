"""The ways to ask for structured output, and the one Constraint they come down to."""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from lorax_serve.server.errors import MalformedBody
from lorax_serve.server.request import Choice, Constraint, Grammar, JsonObject, JsonSchema, Regex
from lorax_serve.server.schema.common import (
    ABSENT,
    decode,
    given_json,
    invalid,
    json_of,
    unsupported,
)

Pattern = Annotated[str, Meta(min_length=1, max_length=8192)]
Schema = Annotated[Raw, json_of(dict[str, object] | bool | None)]
SchemaOrText = Annotated[
    Raw, json_of(dict[str, object] | bool | str | None)
]  # a text holds the JSON
GrammarText = Annotated[str, Meta(min_length=1, max_length=65536)]
Options = Annotated[tuple[str, ...], Meta(min_length=1, max_length=4096)]


Unserved = Annotated[Raw, json_of(None)]  # refused by name


class NamedSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's `json_schema` object. Name and description are labels without effect."""

    name: str | None = None
    description: str | None = None
    schema: Schema = ABSENT
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's `response_format`, with LoRAX's `schema` beside the type."""

    type: str
    json_schema: NamedSchema | None = None
    schema: Schema = ABSENT

    def constraint(self, name: str) -> Constraint | None:
        """`name` is the field's name for messages. Raises ServeError on a contradiction."""
        if self.type in ("text", "Text"):
            if self._schema(name) is not None:
                raise invalid(name, "of type text cannot have a schema")
            return None
        if self.type not in ("json_object", "JsonObject", "json_schema", "JsonSchema"):
            raise invalid(f"{name}.type", "must be text, json_object or json_schema")
        schema = self._schema(name)
        if schema is None:
            if self.type in ("json_schema", "JsonSchema"):  # any object at all was not meant
                raise invalid(name, "of type json_schema needs a schema")
            return JsonObject()
        strict = self.json_schema is not None and bool(self.json_schema.strict)
        return JsonSchema(decode(schema, object, f"{name}.schema"), strict)

    def _schema(self, name: str) -> bytes | None:
        """The schema's JSON, wherever it was put. A null is LoRAX clients' way to say none."""
        named = None if self.json_schema is None else given_json(self.json_schema.schema)
        beside = given_json(self.schema)
        if named is not None and beside is not None:
            raise invalid(name, "has two schemas")
        return beside if named is None else named


class StructuredOutputs(Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's `structured_outputs`: exactly one of its fields is given."""

    json: SchemaOrText = ABSENT
    regex: Pattern | None = None
    choice: Options | None = None
    json_object: bool | None = None
    grammar: GrammarText | None = None
    structural_tag: Unserved = ABSENT
    whitespace_pattern: Unserved = ABSENT

    def constraint(self, name: str) -> Constraint:
        for unserved in ("structural_tag", "whitespace_pattern"):
            if given_json(getattr(self, unserved)) is not None:
                raise unsupported(f"{name}.{unserved}")
        given = [
            guided_constraint(
                json=self.json,
                regex=self.regex,
                choice=self.choice,
                grammar=self.grammar,
                name=name,
            ),
            JsonObject() if self.json_object else None,
        ]
        constraint = only_one(given, name)
        if constraint is None:
            raise invalid(name, "needs exactly one of json, regex, choice, grammar, json_object")
        return constraint


def guided_constraint(
    *,
    json: Raw,
    regex: str | None,
    choice: tuple[str, ...] | None,
    grammar: str | None,
    name: str,
) -> Constraint | None:
    """The constraint of four alternatives, of which at most one may be given."""
    schema = given_json(json)
    return only_one(
        [
            None if schema is None else JsonSchema(_schema_value(schema, name)),
            None if regex is None else Regex(regex),
            None if choice is None else Choice(choice),
            None if grammar is None else Grammar(grammar),
        ],
        name,
    )


def only_one(candidates: list[Constraint | None], name: str) -> Constraint | None:
    """The constraint given, if any. Raises ServeError for several: they could contradict."""
    given = [candidate for candidate in candidates if candidate is not None]
    if len(given) > 1:
        raise invalid(name, "cannot be combined with another output constraint")
    return given[0] if given else None


def _schema_value(schema: bytes, name: str) -> object:
    """A schema may come as JSON or, as some clients send it, as a string that holds JSON."""
    value = decode(schema, object, name)
    if not isinstance(value, str):
        return value
    try:
        return decode(value.encode(), object, name)
    except MalformedBody:
        raise invalid(name, "is a string that is not JSON") from None
