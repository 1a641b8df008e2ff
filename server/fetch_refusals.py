"""What a client hears when its adapter cannot be fetched. A source's own words are for the log."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from lorax_serve.ipc.sizes import show_size
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, adapter_not_found
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteFile,
    Source,
    SourceCorrupt,
    SourceOffline,
    SourceUnavailable,
)
from lorax_serve.server.store.content import (
    CONFIG_FILE,
    TEMPLATE_FILES,
    WEIGHT_FILE,
    is_kept_file,
    is_shard,
)

log = structlog.get_logger(__name__)

_LONGEST_RETRY_AFTER: Final = 3600  # seconds


@contextmanager
def explained(source: Source, adapter_id: str) -> Iterator[None]:
    """Turns SourceError into ServeError."""
    try:
        yield
    except NotFoundOrForbidden:
        raise adapter_not_found(adapter_id) from None
    except SourceOffline:
        raise ServeError(
            ErrorCode.ADAPTER_UNAVAILABLE,
            "The adapter is not here or is private, and this server asks its source nothing.",
        ) from None
    except SourceUnavailable as error:
        log.warning(
            "adapter_source_failed", source=source.name, host=source.host, reason=str(error)
        )
        raise _unavailable(source, error.retry_after) from None
    except SourceCorrupt as error:
        log.warning("adapter_source_lied", source=source.name, host=source.host, reason=str(error))
        raise ServeError(
            ErrorCode.ADAPTER_INTEGRITY,
            "The adapter's source sent other bytes than it announced.",
        ) from None


def _unavailable(source: Source, retry_after: float | None) -> ServeError:
    """`retry_after` is in seconds."""
    seconds = None if retry_after is None else math.ceil(min(retry_after, _LONGEST_RETRY_AFTER))
    return ServeError(
        ErrorCode.ADAPTER_UNAVAILABLE,
        f"The adapter's source, `{source.name}`, cannot deliver it now; try again later. The"
        " server's log says what became of asking it.",
        retry_after=seconds,
    )


def check_files(files: tuple[RemoteFile, ...], max_bytes: int) -> None:
    """Raises ServeError before the first byte is fetched."""
    names = {file.name for file in files}
    if any(map(is_shard, names)):
        raise ServeError(
            ErrorCode.ADAPTER_INCOMPATIBLE,
            "The adapter's weights are in shards; save them as one adapter_model.safetensors.",
        )
    if len(names) != len(files) or not all(map(is_kept_file, names)):
        raise ServeError(ErrorCode.ADAPTER_CORRUPT, "The adapter's list of files makes no sense.")
    if not {CONFIG_FILE, WEIGHT_FILE} <= names:
        raise ServeError(
            ErrorCode.ADAPTER_INCOMPATIBLE,
            "The adapter must have adapter_config.json and adapter_model.safetensors; weights in "
            "pickles (.bin, .pt) are never read, so convert them to safetensors.",
        )
    for file in files:
        most = TEMPLATE_FILES.get(file.name)
        if most is not None and file.num_bytes > most:
            raise ServeError(
                ErrorCode.ADAPTER_TOO_LARGE,
                f"The adapter's {file.name} is larger than the {show_size(most)} served here.",
            )
    if sum(file.num_bytes for file in files) > max_bytes:
        raise ServeError(
            ErrorCode.ADAPTER_TOO_LARGE,
            f"The adapter's files are larger than the {show_size(max_bytes)} served here"
            " (--max-adapter-bytes).",
        )
