"""Where adapters come from and are kept, as the operator's options say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

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
from lorax_serve.server.store.folders import StoreBusy
from lorax_serve.server.store.room import Quota

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
        max_waiting=config.max_waiting_requests,
    )
    sources = {source.name: source for source in _sources(config)}
    remote = RemoteAdapters(sources, open_store(config), limits)
    source = config.adapter_source or (AdapterSource.LOCAL if has_folder else AdapterSource.HUB)
    return AdapterResolver(local, remote, default_source=source.value)


def _sources(config: ServerConfig) -> Iterator[Source]:
    s3, predibase = s3_settings(config), predibase_settings(config)
    yield _hub(config)
    yield S3Source(s3)
    if predibase is not None:
        warn_of_open_places(s3, predibase)
        yield PredibaseSource(predibase)


def open_store(config: ServerConfig) -> AdapterStore:
    """The folder the operator named, or the first one in the cache that no other server has.

    Raises StartError.
    """
    quota = Quota(max_bytes=config.adapter_cache_bytes)
    for folder in _store_folders(config):
        try:
            return AdapterStore(folder, quota)
        except StoreBusy:
            continue
        except OSError as error:
            raise StartError(f"Adapters cannot be kept in {folder}: {error.strerror}.") from error
    raise StartError(
        "Another server keeps its adapters there already; name another --adapter-cache-dir."
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
