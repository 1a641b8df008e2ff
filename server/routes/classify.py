"""POST /classify and /classify_batch: LoRAX's addresses for models that label tokens.

A decoder of the Llama family has no head for that, and no adapter with one is taken: it is refused
when it is loaded. So whoever asks is told why, whatever the body says.
"""

from typing import NoReturn

from aiohttp import web

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError


async def classify(request: web.Request) -> NoReturn:
    """Raises ServeError."""
    raise ServeError(
        ErrorCode.UNSUPPORTED_PARAMETER,
        "This model has no classification head: it generates text and makes embeddings.",
    )
