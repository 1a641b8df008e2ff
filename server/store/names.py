"""What adapter names meant when their source was last asked, over restarts.

Lets an adapter that is here already be served while its source is out of reach. Nothing in it
proves anybody's permission.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lorax_serve.server.sources.source import RemoteAdapter

MAX_NAMES_PER_ENTRY: Final = 16
_SUFFIX: Final = ".json"


class Meaning(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    adapter_id: str  # as it was asked for, revision and all
    adapter: RemoteAdapter
    digest: str  # of the entry that has these bytes


class KnownNames:
    """Every name refers to an entry that is in the store; `forget_entry` keeps it so."""

    def __init__(self, folder: Path, digests: Iterable[str]) -> None:
        """Reads `folder`; what cannot be read or leads nowhere is removed. Raises OSError."""
        self._folder = folder
        self._by_name: dict[tuple[str, str], Meaning] = {}
        self._digests: dict[tuple[str, str, str], str] = {}  # by source, repository and revision
        there = frozenset(digests)
        for path in list(folder.iterdir()):
            meaning = _read(path)
            if (
                meaning is None
                or meaning.digest not in there
                or path != self._path(meaning.source, meaning.adapter_id)
            ):
                path.unlink()
            else:
                self._keep(meaning)

    def last_meaning(self, source: str, adapter_id: str) -> RemoteAdapter | None:
        meaning = self._by_name.get((source, adapter_id))
        return None if meaning is None else meaning.adapter

    def __iter__(self) -> Iterator[Meaning]:
        return iter(self._by_name.values())

    def digest(self, adapter: RemoteAdapter) -> str | None:
        """Which entry has this revision's bytes."""
        return self._digests.get(_revision(adapter))

    def remember(self, adapter_id: str, adapter: RemoteAdapter, digest: str) -> None:
        """Raises OSError when it cannot be written; it is known in this process all the same."""
        meaning = Meaning(adapter.source, adapter_id, adapter, digest)
        if self._by_name.get((adapter.source, adapter_id)) == meaning:
            return
        self._keep(meaning)
        names = [name for name, known in self._by_name.items() if known.digest == digest]
        for name in names[:-MAX_NAMES_PER_ENTRY]:
            self.forget(*name)
        _write(self._path(adapter.source, adapter_id), msgspec.json.encode(meaning))

    def forget(self, source: str, adapter_id: str) -> None:
        """Raises OSError."""
        if self._by_name.pop((source, adapter_id), None) is not None:
            self._path(source, adapter_id).unlink(missing_ok=True)

    def forget_entry(self, digest: str) -> None:
        """Raises OSError."""
        for revision in [r for r, known in self._digests.items() if known == digest]:
            del self._digests[revision]
        for name in [n for n, known in self._by_name.items() if known.digest == digest]:
            self.forget(*name)

    def _keep(self, meaning: Meaning) -> None:
        self._by_name.pop((meaning.source, meaning.adapter_id), None)  # the newest comes last
        self._by_name[meaning.source, meaning.adapter_id] = meaning
        self._digests[_revision(meaning.adapter)] = meaning.digest

    def _path(self, source: str, adapter_id: str) -> Path:
        """Names come from clients: on the disk they are digests."""
        return self._folder / (
            hashlib.sha256(f"{source}\0{adapter_id}".encode()).hexdigest() + _SUFFIX
        )


def _revision(adapter: RemoteAdapter) -> tuple[str, str, str]:
    return adapter.source, adapter.repository, adapter.revision


def _read(path: Path) -> Meaning | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Meaning)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _write(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
