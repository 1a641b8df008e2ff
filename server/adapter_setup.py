"""Where adapters come from and are kept, as the operator's options say."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from lorax_serve.server.adapter_resolver import AdapterResolver
from lorax_serve.server.bucket_setup import (
    predibase_settings,
    s3_settings,
    warn_of_open_places,
)
from lorax_serve.server.config import AdapterSource, ServerConfig
from lorax_serve.server.downloads import DownloadLimits
from lorax_serve.server.errors import StartError
from lorax_serve.server.hub_setup import hub_endpoint
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.sources.predibase import PredibaseSource
from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.source import Source
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.folders import StoreBusy, holds_adapters
from lorax_serve.server.store.room import Quota

log = structlog.get_logger(__name__)

MAX_STORES: Final = 64  # of servers that share a --cache-dir


def build_resolver(
    config: ServerConfig, local: LocalAdapters, *, has_folder: bool
) -> AdapterResolver:
    """`has_folder`: there is an adapter directory.

    Raises StartError when nothing can be stored, or the options do not go together.
    """
    limits = FetchLimits(
        max_adapter_bytes=config.max_adapter_bytes,
        downloads=DownloadLimits(number=config.max_adapter_downloads),
        deadline=config.adapter_download_timeout,
        private_grace=config.private_adapter_grace,
        max_waiting=config.max_waiting_requests,
    )
    sources = {source.name: source for source in _sources(config)}
    remote = RemoteAdapters(sources, open_store(config), limits)
    source = config.adapter_source or (AdapterSource.LOCAL if has_folder else AdapterSource.HUB)
    return AdapterResolver(local, remote, default_source=source.value)


def _sources(config: ServerConfig) -> Iterator[Source]:
    s3, predibase = s3_settings(config), predibase_settings(config)
    yield _hub(config)
    if s3.allowed:
        yield S3Source(s3)
    if predibase is not None:
        warn_of_open_places(s3, predibase)
        yield PredibaseSource(predibase)


def open_store(config: ServerConfig) -> AdapterStore:
    """The folder the operator named, or the first one in the cache that no other server has; in
    the latter case it is warned of what lies in others, which this server will not find.

    Raises StartError.
    """
    quota = Quota(max_bytes=config.adapter_cache_bytes)
    for folder in _store_folders(config):
        try:
            store = AdapterStore(folder, quota)
        except StoreBusy:
            continue
        except OSError as error:
            raise StartError(f"Adapters cannot be kept in {folder}: {error.strerror}.") from error
        if config.adapter_cache_dir is None and config.frontends == 1:
            with suppress(OSError):  # what cannot be looked at is not told of
                _warn_of_others(folder)
        return store
    taken = config.adapter_cache_dir or config.cache_dir / "adapters"
    raise StartError(
        f"Another server keeps its adapters in {taken} already; name another --adapter-cache-dir."
    )


def _warn_of_others(folder: Path) -> None:
    """Which folder a server takes follows from which others run when it starts."""
    others = [
        str(other)
        for other in sorted(folder.parent.iterdir())
        if other.name.isdigit() and other != folder and holds_adapters(other)
    ]
    if others or folder.name != "0":
        log.warning(
            "adapter_cache_dir_not_named",
            adapter_cache_dir=str(folder),
            others_with_adapters=others,
            remedy="several servers on one --cache-dir need an --adapter-cache-dir each",
        )


def _store_folders(config: ServerConfig) -> Iterator[Path]:
    if config.adapter_cache_dir is not None:
        yield config.adapter_cache_dir
        return
    for number in range(MAX_STORES):
        yield config.cache_dir / "adapters" / str(number)


def _hub(config: ServerConfig) -> HubSource:
    globs = config.adapter_allow
    return HubSource(
        hub_endpoint(config),
        offline=config.hub_offline,
        with_templates=config.adapter_chat_templates,
        allowed=None if globs is None else [glob.strip() for glob in globs.split(",")],
        operator_token=None if config.hub_token is None else config.hub_token.revealed,
    )
