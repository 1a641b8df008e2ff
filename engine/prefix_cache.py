"""Keys under which KV blocks are found again.

The key of a block covers everything its keys and values depend on: the adapter's content, the
tenant's salt, and every token up to the block's end. It is a chain of SHA-256, so equal keys mean
equal content; Python's own hash is predictable and collides.
"""

import hashlib
from array import array
from collections.abc import Iterable


def root_key(adapter_digest: str, cache_salt: str) -> bytes:
    """The parent of a sequence's first block; an empty digest is the base model."""
    parts = (adapter_digest.encode(), cache_salt.encode())
    return hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest()


def block_key(parent: bytes, token_ids: Iterable[int]) -> bytes:
    """The key of a full block that follows `parent`."""
    return hashlib.sha256(parent + array("q", token_ids).tobytes()).digest()
