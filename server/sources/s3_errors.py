"""What a bucket's answers and botocore's failures mean. No text of either gets through."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from lorax_serve.server.sources.retries import parse_retry_after
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    SourceCorrupt,
    SourceError,
    SourceUnavailable,
)

_REFUSALS: Final = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
)
# The operator's credentials or clock are wrong, which says nothing about any adapter.
_MISCONFIGURED: Final = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_CODE: Final = re.compile(r"[A-Za-z0-9]{1,64}")


class RefusedByBucket(NotFoundOrForbidden):
    """An allowed place does not exist, or the operator's own credentials may not read it."""


@contextmanager
def s3_errors() -> Iterator[None]:
    """Turns every way in which a bucket fails into a SourceError."""
    try:
        yield
    except ClientError as error:
        raise _refusal(error) from None
    # ValueError: a connection closed under a reader, for instance at our own request.
    except (BotoCoreError, HTTPError, OSError, ValueError) as error:
        raise SourceUnavailable(type(error).__name__) from None


def _refusal(error: ClientError) -> SourceError:
    about = error.response.get("ResponseMetadata", {})
    status = about.get("HTTPStatusCode", 0)
    code = str(error.response.get("Error", {}).get("Code") or "")
    reason = f"status {status}, {code if _CODE.fullmatch(code) else 'no code'}"
    if status == HTTPStatus.PRECONDITION_FAILED:
        return SourceCorrupt("the object was replaced")
    if status in _REFUSALS and code not in _MISCONFIGURED:
        return RefusedByBucket(reason)
    retry_after = about.get("HTTPHeaders", {}).get("retry-after")
    return SourceUnavailable(reason, parse_retry_after(retry_after))
