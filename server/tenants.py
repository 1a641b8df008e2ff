"""Whom a request is counted against, and whose cached prefixes it may meet.

A caller is known by the credential it brings for its adapter's source. Two things follow from it,
and they trust it differently:

- *Turns* (`Tenants.name`): a tenant's share is taken from others, so only a credential that proved
  something makes a tenant: one that opened an adapter of this request which is not anybody's.
  Others can be made up, a new one for every request; who brings such a one is ANONYMOUS, as
  without it.
- *Cached prefixes* (`Tenants.prefix_salt`): here every credential counts, proven or not. A salt of
  one's own takes nothing from anybody and finds nothing of others; to drop it where the credential
  proved nothing would show the prompts of who brings one to all who bring none, by how soon they
  are answered. So who shares blocks is never more than those with the same credential, unless the
  operator has said that all callers may.
"""

import enum
import hashlib
import hmac
from typing import Final

ANONYMOUS: Final = ""


class PrefixCacheScope(enum.Enum):
    """Among whom the blocks of prompts that begin alike are shared."""

    TENANT = "tenant"  # requests that bring the same credential, or none
    GLOBAL = "global"  # all requests


class Tenants:
    """Names tenants. A name tells nothing about the credential, and means nothing elsewhere."""

    def __init__(
        self, secret: bytes, prefix_cache_scope: PrefixCacheScope = PrefixCacheScope.TENANT
    ) -> None:
        """Those with equal secrets, which are random and nobody else's, give equal names."""
        self._secret = secret
        self._prefix_cache_scope = prefix_cache_scope

    def name(self, token: str | None, *, is_proven: bool) -> str:
        """The tenant whose turn a request takes; ANONYMOUS unless the token proved something."""
        return self._digest(token) if is_proven else ANONYMOUS

    def prefix_salt(self, token: str | None, cache_salt: str) -> str:
        """Equal for equal pairs only: a salt that a client chooses parts its own prefixes further,
        and never joins those of another credential. Where all share, equal for equal salts.
        """
        is_shared = self._prefix_cache_scope is PrefixCacheScope.GLOBAL
        bringer = "" if is_shared else self._digest(token)
        return f"{bringer}/{cache_salt}" if bringer else cache_salt and f"/{cache_salt}"

    def _digest(self, token: str | None) -> str:
        """16 hexadecimal digits (HMAC-SHA-256, RFC 2104, cut short); "" without a token."""
        if token is None:
            return ""
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()[:16]
