"""A constraint ready for the engine: the frontend compiles it, the engine makes guides of it."""

import hashlib
from dataclasses import dataclass

LLGUIDANCE = "llguidance"  # payload: an llguidance grammar as UTF-8 JSON
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
