"""A constraint ready for the engine: the frontend compiles it, the engine makes guides of it."""

import hashlib
import json
from dataclasses import dataclass

LLGUIDANCE = "llguidance"  # payload: an llguidance grammar as UTF-8 JSON
LLGUIDANCE_CONTROL = "llguidance_control"  # the same, which may name tokens that are no text
LARK = "lark"  # payload: the same, which a client wrote, and which has tighter limits
OUTLINES_INDEX = "outlines_index"  # payload: the binary form of an outlines_core Index


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """Equal digests mean equal kind and payload; `warnings` are sentences for the client."""

    kind: str
    payload: bytes
    digest: str  # sha256 hex
    warnings: tuple[str, ...] = ()


def compiled_grammar(kind: str, payload: bytes, warnings: tuple[str, ...] = ()) -> CompiledGrammar:
    digest = hashlib.sha256(kind.encode() + b"\0" + payload).hexdigest()
    return CompiledGrammar(kind, payload, digest, warnings)


def lark_grammar(text: str) -> str:
    """llguidance's own form of a Lark grammar: a bare text it would have to guess the form of."""
    return json.dumps({"grammars": [{"lark_grammar": text}]})
