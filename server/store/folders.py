"""The store on disk: where entries, unfinished downloads and rubbish lie.

    sha256/ab/cdef…/    one adapter; the path is its content digest. Comes into being by a rename
    sha256/ab/cdef….1/  the same, fetched again while a damaged one was still held
    partial/<key>/      a download under way, or one to be resumed
    trash/              what is being deleted
    names/              what names meant last; see `names.py`
    lock                held by the one server that uses the store

Only `publish` adds to sha256/, so that whatever is there is whole, wherever a process was killed.
"""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lorax_serve.server.store.content import folder_state, sync_file, sync_folder
from lorax_serve.server.store.room import charged_bytes

MAX_PARTIAL_AGE: Final = 24 * 3600.0  # seconds an unfinished download is kept over restarts

_ENTRIES: Final = "sha256"
_ENTRY: Final = re.compile(r"([0-9a-f]{64})(?:\.([0-9]{1,9}))?")


class StoreBusy(Exception):
    """Another server has the store."""


class StoreFolders:
    """Plain file operations; every one may raise OSError. Knows no quota and no leases."""

    def __init__(self, root: Path) -> None:
        """Takes the store at `root`, made if need be. Raises StoreBusy, and OSError."""
        self.root = root
        self.names = root / "names"
        self._entries = root / _ENTRIES
        self._partial = root / "partial"
        self._trash = root / "trash"
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StoreBusy from None
        for folder in (self.names, self._entries, self._partial, self._trash):
            folder.mkdir(exist_ok=True)
        self._tidy()

    def close(self) -> None:
        os.close(self._lock)

    def partial(self, key: str) -> Path:
        return self._partial / key

    def entries(self) -> Iterator[tuple[str, Path, int, float]]:
        """Digest, folder, charged bytes and time of last use (of `time.time`) of every entry."""
        for digest, copies in self._copies("??/*").items():
            path = copies[max(copies)]
            yield digest, path, charged_to(path), path.stat().st_mtime

    def partials(self) -> Iterator[tuple[str, int]]:
        """Key and charged bytes of every unfinished download, the oldest first."""
        for path in sorted(self._partial.iterdir(), key=lambda path: path.stat().st_mtime):
            yield path.name, charged_to(path)

    def free_path(self, digest: str) -> Path:
        """Where an entry can be put, beside those called so that somebody may still read."""
        first = self._entries / digest[:2] / digest[2:]
        taken = self._copies(f"{digest[:2]}/{digest[2:]}*").get(digest)
        return first if taken is None else first.with_name(f"{first.name}.{max(taken) + 1}")

    def publish(self, key: str, entry: Path) -> None:
        """Make the finished download `key` the entry at a free path, for good when this returns."""
        folder = self.partial(key)
        for name in os.listdir(folder):
            sync_file(folder / name)
        sync_folder(folder)
        entry.parent.mkdir(exist_ok=True)
        os.rename(folder, entry)
        for changed in (entry.parent, self._entries, self._partial):
            sync_folder(changed)

    def delete(self, folder: Path) -> None:
        """Take a folder out of its place at once, then delete its files."""
        if folder.exists():
            os.rename(folder, Path(tempfile.mkdtemp(dir=self._trash)) / "folder")
            self._empty_trash()

    def _tidy(self) -> None:
        self._empty_trash()
        for copies in self._copies("??/*").values():
            for number in copies.keys() - {max(copies)}:
                self._discard(copies[number])
        oldest = time.time() - MAX_PARTIAL_AGE
        for path in list(self._partial.iterdir()):
            if not path.is_dir() or path.stat().st_mtime < oldest:
                self._discard(path)

    def _empty_trash(self) -> None:
        for path in list(self._trash.iterdir()):
            self._discard(path)

    def _discard(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # another thread may be at the same rubbish
        else:
            path.unlink(missing_ok=True)

    def _copies(self, pattern: str) -> dict[str, dict[int, Path]]:
        """Folders of entries, by digest and how often it had been there before."""
        copies: dict[str, dict[int, Path]] = {}
        for path in self._entries.glob(pattern):
            match = _ENTRY.fullmatch(f"{path.parent.name}{path.name}")
            if match is not None and path.is_dir():
                copies.setdefault(match[1], {})[int(match[2] or 0)] = path
        return copies


def holds_adapters(root: Path) -> bool:
    """Whether there is a store at `root` with an adapter in it. Raises OSError."""
    return any((root / _ENTRIES).glob("??/*"))


def charged_to(folder: Path) -> int:
    """What an adapter's folder counts in the quota. Raises OSError."""
    return charged_bytes(num_bytes for num_bytes, *_ in folder_state(folder).values())
