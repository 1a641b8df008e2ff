"""Whom a request is counted against, and whose cached prefixes it may meet.

Without keys of the server's own a caller is known by the credential it brings for its adapter's
source; all who bring none are one tenant.
"""

import hashlib
import hmac
import secrets
from typing import Final

ANONYMOUS: Final = ""


class Tenants:
    """Names tenants. A name tells nothing about the credential, and means nothing elsewhere."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def name(self, token: str | None) -> str:
        """16 hexadecimal digits (HMAC-SHA-256, RFC 2104, cut short); ANONYMOUS without a token."""
        if token is None:
            return ANONYMOUS
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()[:16]


def prefix_salt(tenant: str, cache_salt: str) -> str:
    """Equal for equal pairs only: a salt that a client chooses parts its own prefixes further, and
    never joins those of another tenant.
    """
    return f"{tenant}/{cache_salt}" if tenant else cache_salt and f"/{cache_salt}"
