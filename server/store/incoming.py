"""One adapter on its way into the store: files fetched one by one, each checked once complete."""

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from lorax_serve.server.sources.source import OnBytes, RemoteAdapter, RemoteFile, SourceCorrupt
from lorax_serve.server.store.content import (
    FileState,
    FolderState,
    content_digest,
    file_digest,
    file_state,
    folder_state,
    is_kept_file,
)
from lorax_serve.server.store.fetches import FetchUnderWay
from lorax_serve.server.store.room import charged_bytes
from lorax_serve.server.threads import run_whole


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A download that nobody is at work on."""

    charged_bytes: int
    left: FolderState  # of the files that this process wrote, when it left them


# Writes one file to a path, from where an earlier attempt left off.
Fetch = Callable[[RemoteFile, Path, OnBytes], Awaitable[None]]


class Incoming:
    """The files of `adapter` in `folder`, which may hold some of them from before."""

    def __init__(
        self, adapter_id: str, adapter: RemoteAdapter, folder: Path, left: FolderState
    ) -> None:
        """`left` is as of Unfinished. Raises ValueError for a file of another name than an
        adapter's files have.
        """
        if not all(is_kept_file(file.name) for file in adapter.files):
            raise ValueError("an adapter has no such file")
        self._adapter_id = adapter_id
        self._began_at = time.monotonic()
        self._files = adapter.files
        self._folder = folder
        self._left = left
        self._is_tidied = False  # what the folder has is this process's, or is known by its digest
        self.source = adapter.source
        self.total_bytes = sum(file.num_bytes for file in adapter.files)
        self.num_received = 0  # bytes since this download began
        self.charged_bytes = charged_bytes(file.num_bytes for file in adapter.files)
        self.state: FolderState = {}  # of the files as they were when they were hashed
        self._fetched: dict[str, int] = {}  # bytes by file name

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began_at

    @property
    def num_here(self) -> int:
        """Bytes of the files that were begun."""
        return sum(self._fetched.values())

    @property
    def num_missing(self) -> int:
        """Bytes of the disk that are still to be taken."""
        return max(self.charged_bytes - self.num_here, 0)

    async def fetch_all(self, fetch: Fetch) -> str:
        """The content digest of what is then in the folder.

        Raises SourceCorrupt, what `fetch` raises, and OSError.
        """
        self._fetched = await run_whole(self._tidied)
        self._is_tidied = True
        return content_digest([(file.name, await self._file(file, fetch)) for file in self._files])

    def under_way(self) -> FetchUnderWay:
        return FetchUnderWay(
            self._adapter_id, self.source, self.num_here, self.total_bytes, self.seconds
        )

    def unfinished(self) -> Unfinished:
        """What to remember until somebody goes on with it. Raises OSError, if there is nothing."""
        now = folder_state(self._folder)
        charged = charged_bytes(num_bytes for num_bytes, *_ in now.values())
        return Unfinished(charged, now if self._is_tidied else self._left)

    def _tidied(self) -> dict[str, int]:
        """Bytes of each file that are here to go on from; what else lies there is removed."""
        self._folder.mkdir(exist_ok=True)
        there = folder_state(self._folder)
        held: dict[str, int] = {file.name: 0 for file in self._files}
        for file in self._files:
            state = there.get(file.name)
            # Without a digest nobody would notice a beginning that a crash had spoilt.
            is_known = file.sha256 is not None or state == self._left.get(file.name)
            if state is not None and is_known and 0 < state[0] <= file.num_bytes:
                held[file.name] = state[0]
        for name in there:
            if not held.get(name):
                (self._folder / name).unlink()
        return held

    async def _file(self, file: RemoteFile, fetch: Fetch) -> str:
        path = self._folder / file.name
        resumed = self._fetched[file.name] > 0
        digest = await self._fetched_digest(file, path, fetch)
        if digest is None and resumed:
            # What lay there from before may be what is wrong.
            await run_whole(path.unlink)
            self._fetched[file.name] = 0
            digest = await self._fetched_digest(file, path, fetch)
        if digest is None:
            raise SourceCorrupt(f"{file.name} is not what was announced")
        return digest

    async def _fetched_digest(self, file: RemoteFile, path: Path, fetch: Fetch) -> str | None:
        """SHA-256 hex of the complete file; None when length or digest is wrong."""
        if self._fetched[file.name] < max(file.num_bytes, 1):  # of an empty one nothing is here
            await fetch(file, path, lambda num_new: self._count(file, num_new))
        state, digest = await run_whole(_look_at, path)
        self.state[file.name] = state
        return digest if state[0] == file.num_bytes and file.sha256 in (None, digest) else None

    def _count(self, file: RemoteFile, num_new: int) -> None:
        """Raises SourceCorrupt as soon as a file is longer than it may be."""
        self._fetched[file.name] += num_new
        self.num_received += max(num_new, 0)
        if self._fetched[file.name] > file.num_bytes:
            raise SourceCorrupt(f"{file.name} is longer than announced")


def _look_at(path: Path) -> tuple[FileState, str]:
    """The file as it is, and its SHA-256 hex."""
    return file_state(path), file_digest(path)


def partial_key(adapter: RemoteAdapter) -> str:
    """What a download of this revision is called on the disk."""
    name = "\0".join(
        (adapter.source, adapter.repository, adapter.revision, *adapter.template_names)
    )
    return hashlib.sha256(name.encode()).hexdigest()
