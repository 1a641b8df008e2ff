"""What sources said lately about names, each answer for one credential alone.

A credential is kept only as a keyed digest (HMAC-SHA-256, RFC 2104) under a secret of the process.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NewType

from lorax_serve.server.sources.source import RemoteAdapter

Fingerprint = NewType("Fingerprint", bytes)

MAX_VERDICTS: Final = 10_000
TRUE_SECONDS: Final = 60.0  # how long a permission outlives its revocation
FALSE_SECONDS: Final = 10.0  # and a refusal what would now be permitted


@dataclass(frozen=True, slots=True)
class Verdict:
    """`adapter` is None where there is no such adapter for that credential."""

    adapter: RemoteAdapter | None
    expires_at: float
    proven_until: float  # the same, but for an answer that was prolonged without a new proof


class Verdicts:
    """The latest answers, at most MAX_VERDICTS; what was asked for longest ago is forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verdicts)

    def fingerprint(self, token: str | None) -> Fingerprint:
        """Equal for equal tokens; tells nothing about them. A missing token has one too."""
        return Fingerprint(self._mac("" if token is None else f"token {token}"))

    def get(self, source: str, adapter_id: str, caller: Fingerprint) -> Verdict | None:
        """What holds now for this caller: an answer of the caller's own, or anybody's. Who was
        refused last has to ask again, whatever others were told since.
        """
        own = self._verdicts.get(self._key(source, adapter_id, caller))
        if own is not None and (self._holds(own) or own.adapter is None):
            return own if self._holds(own) else None
        shared = self._verdicts.get(self._key(source, adapter_id, self.fingerprint(None)))
        return shared if shared is not None and _is_public(shared) and self._holds(shared) else None

    def was_refused(self, source: str, adapter_id: str, caller: Fingerprint) -> bool:
        """Whether the last answer to this caller was a refusal, however long ago."""
        verdict = self._verdicts.get(self._key(source, adapter_id, caller))
        return verdict is not None and verdict.adapter is None

    def outlasting(
        self, source: str, adapter_id: str, caller: Fingerprint, grace_seconds: float
    ) -> RemoteAdapter | None:
        """What is not anybody's, and this caller's own last answer permitted, while no more than
        `grace_seconds` have passed since that held.
        """
        own = self._verdicts.get(self._key(source, adapter_id, caller))
        if own is None or own.adapter is None or own.adapter.public:
            return None
        return own.adapter if own.proven_until + grace_seconds > self._clock() else None

    def prolong(
        self,
        source: str,
        adapter_id: str,
        caller: Fingerprint,
        seconds: float,
        *,
        grace_seconds: float,
    ) -> None:
        """What `outlasting` says holds for so many seconds more, but no longer than it says so."""
        key = self._key(source, adapter_id, caller)
        own = self._verdicts[key]
        expires_at = min(self._clock() + seconds, own.proven_until + grace_seconds)
        self._verdicts[key] = replace(own, expires_at=expires_at)
        self._verdicts.move_to_end(key)

    def put(
        self,
        source: str,
        adapter_id: str,
        caller: Fingerprint,
        adapter: RemoteAdapter | None,
        seconds: float,
    ) -> None:
        if adapter is not None and adapter.public:
            self._verdicts.pop(self._key(source, adapter_id, caller), None)
            caller = self.fingerprint(None)
        key = self._key(source, adapter_id, caller)
        expires_at = self._clock() + seconds
        self._verdicts[key] = Verdict(adapter, expires_at, proven_until=expires_at)
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)

    def drop(self, source: str, adapter_id: str, caller: Fingerprint) -> None:
        """What holds for this caller holds no longer."""
        for asker in (self.fingerprint(None), caller):
            self._verdicts.pop(self._key(source, adapter_id, asker), None)

    def _holds(self, verdict: Verdict) -> bool:
        return verdict.expires_at > self._clock()

    def _key(self, source: str, adapter_id: str, caller: Fingerprint) -> bytes:
        return self._mac(f"verdict {source} {caller.hex()} {adapter_id}")

    def _mac(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(errors="surrogatepass"), hashlib.sha256)


def _is_public(verdict: Verdict) -> bool:
    return verdict.adapter is not None and verdict.adapter.public
