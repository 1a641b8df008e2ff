"""The Authorization header's credential."""

import re
from typing import Final

from aiohttp import web

_BEARER: Final = re.compile(r"bearer +([\x21-\x7e]{1,4096})", re.IGNORECASE)


def bearer(request: web.Request) -> str | None:
    found = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    return None if found is None else found[1]
