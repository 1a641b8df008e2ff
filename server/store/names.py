"""What adapter names meant when their source was last asked, over restarts.

Lets an adapter that is here already be served while its source is out of reach. Nothing in it
proves anybody's permission.
"""

import asyncio
import hashlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lorax_serve.server.sources.source import RemoteAdapter
from lorax_serve.server.threads import run_whole

MAX_NAMES_PER_ENTRY: Final = 16
# A repository whose adapter stays the same while its other files change has one for each commit.
MAX_REVISIONS_PER_ENTRY: Final = 2 * MAX_NAMES_PER_ENTRY
_SUFFIX: Final = ".json"
_TIME_STEP: Final = 3600  # seconds: so often is it written that a source still says the same


_Name = tuple[str, str]  # source, and id as it was asked for
# Source, repository, revision, and the names of template files.
_Revision = tuple[str, str, str, tuple[str, ...]]


class Meaning(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    adapter_id: str  # as it was asked for, revision and all
    adapter: RemoteAdapter
    digest: str  # of the entry that has these bytes
    said_at: int = 0  # the hour, in Unix seconds, in which the source said so last; 0: unknown


class KnownNames:
    """Every name refers to an entry that is in the store; `forget_entry` keeps it so.

    Whatever changes does so at once in memory, and on the disk by `save`.
    """

    def __init__(
        self, folder: Path, digests: Iterable[str], clock: Callable[[], float] = time.time
    ) -> None:
        """Reads `folder`; what cannot be read or leads nowhere is removed. `clock` is in Unix
        seconds: it outlives the process. Raises OSError.
        """
        self._folder = folder
        self._clock = clock
        self._by_name: dict[_Name, Meaning] = {}
        self._digests: dict[_Revision, str] = {}
        self._names_of: defaultdict[str, dict[_Name, None]] = defaultdict(dict)  # newest last
        self._revisions_of: defaultdict[str, dict[_Revision, None]] = defaultdict(dict)
        self._unsaved: set[_Name] = set()
        self._saving = asyncio.Lock()
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

    def last_meaning(
        self, source: str, adapter_id: str, *, within: float | None = None
    ) -> RemoteAdapter | None:
        """The source must have said so `within` so many seconds, of which the last hour may not
        count. A clock that was set back makes nothing younger.
        """
        meaning = self._by_name.get((source, adapter_id))
        if meaning is None:
            return None
        is_old = within is not None and abs(self._clock() - meaning.said_at) > within
        return None if is_old else meaning.adapter

    def __iter__(self) -> Iterator[Meaning]:
        return iter(self._by_name.values())

    def digest(self, adapter: RemoteAdapter) -> str | None:
        """Which entry has this revision's bytes."""
        return self._digests.get(_revision(adapter))

    def remember(self, adapter_id: str, adapter: RemoteAdapter, digest: str) -> None:
        """What the name means by the word of its source, moments ago; or the same as before, which
        is no news of the source.
        """
        known = self._by_name.get((adapter.source, adapter_id))
        is_news = known is None or (known.adapter, known.digest) != (adapter, digest)
        if not is_news and self._digests.get(_revision(adapter)) == digest:
            return
        said_at = self._hour() if known is None or is_news else known.said_at
        self._keep(Meaning(adapter.source, adapter_id, adapter, digest, said_at))
        self._unsaved.add((adapter.source, adapter_id))
        names = self._names_of[digest]
        for name in list(names)[:-MAX_NAMES_PER_ENTRY]:
            self.forget(*name)
        self._forget_old_revisions(digest)

    def confirm(self, adapter_id: str, adapter: RemoteAdapter) -> None:
        """The source says now that the name means this, as it did before."""
        name = adapter.source, adapter_id
        known = self._by_name.get(name)
        if known is None or known.adapter != adapter:
            return
        if known.said_at != (hour := self._hour()):
            self._by_name[name] = msgspec.structs.replace(known, said_at=hour)
            self._unsaved.add(name)

    def forget(self, source: str, adapter_id: str) -> None:
        name = source, adapter_id
        meaning = self._by_name.pop(name, None)
        if meaning is not None:
            self._names_of[meaning.digest].pop(name, None)
            self._unsaved.add(name)

    def forget_entry(self, digest: str) -> None:
        for revision in self._revisions_of.pop(digest, ()):
            del self._digests[revision]
        for name in self._names_of.pop(digest, ()):
            del self._by_name[name]
            self._unsaved.add(name)

    async def save(self) -> None:
        """Raises OSError if something cannot be written; in this process it counts all the same."""
        if not self._unsaved:
            return
        async with self._saving:
            changes = {self._path(*name): self._by_name.get(name) for name in self._unsaved}
            self._unsaved.clear()
            await run_whole(_write_all, changes)

    def _keep(self, meaning: Meaning) -> None:
        name, revision = (meaning.source, meaning.adapter_id), _revision(meaning.adapter)
        before = self._by_name.pop(name, None)
        if before is not None:
            self._names_of[before.digest].pop(name)
        self._by_name[name] = meaning
        self._names_of[meaning.digest][name] = None
        known = self._digests.get(revision, meaning.digest)
        self._revisions_of[known].pop(revision, None)
        self._digests[revision] = meaning.digest
        self._revisions_of[meaning.digest][revision] = None

    def _forget_old_revisions(self, digest: str) -> None:
        """Those that were remembered first and that no name means any more."""
        revisions = self._revisions_of[digest]
        num_too_many = len(revisions) - MAX_REVISIONS_PER_ENTRY
        if num_too_many <= 0:
            return
        meant = {_revision(self._by_name[name].adapter) for name in self._names_of[digest]}
        for revision in [each for each in revisions if each not in meant][:num_too_many]:
            del revisions[revision]
            del self._digests[revision]

    def _hour(self) -> int:
        return int(self._clock()) // _TIME_STEP * _TIME_STEP

    def _path(self, source: str, adapter_id: str) -> Path:
        """Names come from clients: on the disk they are digests."""
        return self._folder / (
            hashlib.sha256(f"{source}\0{adapter_id}".encode()).hexdigest() + _SUFFIX
        )


def _revision(adapter: RemoteAdapter) -> _Revision:
    return adapter.source, adapter.repository, adapter.revision, adapter.template_names


def _read(path: Path) -> Meaning | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Meaning)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _write_all(changes: Mapping[Path, Meaning | None]) -> None:
    """None: there is to be no such file. Raises OSError."""
    for path, meaning in changes.items():
        if meaning is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, msgspec.json.encode(meaning))


def _write(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
