"""What a source's HTTP answers and failures mean. No text of a peer or a library gets through."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import aiohttp

from lorax_serve.server.sources.retries import parse_retry_after
from lorax_serve.server.sources.source import NotFoundOrForbidden, SourceError, SourceUnavailable

_REFUSALS: Final = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
)


def check_status(reply: aiohttp.ClientResponse, served: Collection[int] = (HTTPStatus.OK,)) -> None:
    """Raises NotFoundOrForbidden, and SourceUnavailable for every other status not `served`."""
    if reply.status in served:
        return
    if reply.status in _REFUSALS:
        raise NotFoundOrForbidden(f"status {reply.status}")
    retry_after = parse_retry_after(reply.headers.get("Retry-After"))
    raise SourceUnavailable(f"status {reply.status}", retry_after)


@contextmanager
def transport_errors(kind: type[SourceError] = SourceUnavailable) -> Iterator[None]:
    """Turns aiohttp's failures into `kind`: refused, reset, DNS, TLS, a stall, a cut body."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise kind(type(error).__name__) from None
