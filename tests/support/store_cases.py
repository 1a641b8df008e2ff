"""Adapters for the store, and sources that are just bytes."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from lorax_serve.server.sources.source import RemoteAdapter, RemoteFile
from lorax_serve.server.store.incoming import OnBytes

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

FetchBytes = Callable[[RemoteFile, Path, OnBytes], Awaitable[None]]


def remote(
    name: str, weights: bytes, *, config: bytes = b"{}", revision: str = "1", public: bool = True
) -> RemoteAdapter:
    files = (
        RemoteFile(CONFIG_NAME, len(config), None),
        RemoteFile(WEIGHTS_NAME, len(weights), hashlib.sha256(weights).hexdigest()),
    )
    return RemoteAdapter("hub", name, revision, files, public)


def sending(weights: bytes, *, config: bytes = b"{}") -> FetchBytes:
    """Appends what is missing, as a source would."""

    async def fetch(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
        content = config if file.name == CONFIG_NAME else weights
        held = destination.stat().st_size if destination.exists() else 0
        with destination.open("ab") as written:
            written.write(content[held:])
        on_bytes(len(content) - held)

    return fetch


async def not_asked(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
    raise AssertionError("nothing was to be fetched")
