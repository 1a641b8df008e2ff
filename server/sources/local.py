"""Adapters that lie in folders of this machine.

A name is a path of plain components below the adapter directory ("support", "team/support").
Whatever is wrong with a name, the answer is the one for an adapter that does not exist, so that
nothing can be learnt about files outside. The files in an adapter's folder may be links anywhere:
whoever may write there is trusted with what the server can read.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from lorax_serve.ipc.folder_state import folder_state
from lorax_serve.ipc.types import AdapterRef
from lorax_serve.server.errors import StartError, adapter_not_found
from lorax_serve.server.sources.layout import adapter_folder
from lorax_serve.server.store.content import CONFIG_FILE

MAX_ID_CHARS = 512
MAX_LISTED = 10_000

# One folder name: not "." or "..", and nothing that separates, escapes or encodes a path.
_COMPONENT = re.compile(r"(?!\.{1,2}\Z)[^/\\%\x00-\x1f\x7f-\x9f]+")

# What a name that leads nowhere raises; RuntimeError is pathlib's word for a loop of links.
_NO_FOLDER = (OSError, ValueError, RuntimeError)

AdapterNames: TypeAlias = list[str]


class LocalAdapters:
    """Resolves adapter names to folders. Every call reads the disk anew, by short stat calls."""

    def __init__(self, root: Path | None, *, allow_absolute: bool) -> None:
        """Raises StartError when `root` is not a directory; None: there are no short names."""
        if root is not None and not root.is_dir():
            raise StartError(f"The adapter directory {root} does not exist or is no directory.")
        self._root = None if root is None else root.resolve()
        self._allow_absolute = allow_absolute

    def resolve(self, adapter_id: str) -> AdapterRef:
        """The folder of the adapter's files and a revision that changes whenever its files do.

        A folder without adapter_config.json resolves too: the engine says what it lacks.

        Raises:
            ServeError: MODEL_NOT_FOUND for an id that is absent, malformed, outside or unreadable.
        """
        try:
            folder = self._folder(adapter_id)
            return AdapterRef(adapter_id, str(folder), folder_state(folder), is_writable=True)
        except _NO_FOLDER:
            raise adapter_not_found(adapter_id) from None

    def rule(self, adapter_id: str) -> str:
        """Where such an id is looked up, in a sentence for an operator."""
        if self._root is None:
            return "There is no --adapter-dir."
        if adapter_id.startswith("/") and not self._allow_absolute:
            return "Paths outside --adapter-dir are served with --allow-absolute-adapters alone."
        return "Names are paths in --adapter-dir; a link may lead nowhere outside."

    def short_name(self, path: str) -> str | None:
        """The name of an absolute path below the adapter directory; None for any other text."""
        if self._root is None or not path.startswith(f"{self._root}/"):
            return None
        return path.removeprefix(f"{self._root}/").rstrip("/")

    def list(self) -> AdapterNames:
        """Names of the folders with an adapter_config.json, there or where a layout says, one or
        two levels below the adapter directory, sorted; at most `MAX_LISTED`.
        """
        if self._root is None:
            return []
        names: AdapterNames = []
        for name in _folders(self._root):
            found = self._adapter(name)
            names += [name] if found else []
            deeper = (f"{name}/{inner}" for inner in _folders(self._root / name))
            # What a layout nests would be the same adapter once more.
            names += [n for n in deeper if self._adapter(n) not in (None, found)]
            if len(names) >= MAX_LISTED:
                break
        return sorted(names)[:MAX_LISTED]

    def _folder(self, adapter_id: str) -> Path:
        """Raises one of `_NO_FOLDER` when there is no such folder for our users."""
        if len(adapter_id) > MAX_ID_CHARS:
            raise ValueError
        absolute = adapter_id.startswith("/")
        components = adapter_id[1:].split("/") if absolute else adapter_id.split("/")
        if not all(map(_COMPONENT.fullmatch, components)):
            raise ValueError
        base = self._base(absolute=absolute)
        folder = _inside(base, base.joinpath(*components))
        inner = adapter_folder(lambda inner: _has_config(base, folder / inner))
        return _inside(base, folder / inner)

    def _base(self, *, absolute: bool) -> Path:
        if absolute and self._allow_absolute:
            return Path("/")
        if absolute or self._root is None:
            raise ValueError
        return self._root

    def _adapter(self, name: str) -> Path | None:
        """The folder of its files, if there is a config among them."""
        try:
            folder = self._folder(name)
            return folder if (folder / CONFIG_FILE).is_file() else None
        except _NO_FOLDER:
            return None


def _inside(base: Path, path: Path) -> Path:
    """`path` without links. Raises one of `_NO_FOLDER` unless it is a folder in `base`."""
    folder = path.resolve(strict=True)
    if not folder.is_relative_to(base) or not folder.is_dir():
        raise ValueError
    str(folder).encode()  # a name that is not Unicode raises ValueError; the wire has no bytes
    return folder


def _has_config(base: Path, path: Path) -> bool:
    """Whether `path` is a folder in `base` with a config, be that a link to nowhere."""
    try:
        return os.path.lexists(_inside(base, path) / CONFIG_FILE)
    except _NO_FOLDER:
        return False


def _folders(parent: Path) -> Iterator[str]:
    """Folders, links to folders included, but for hidden ones; in order; nothing if unreadable."""
    try:
        with os.scandir(parent) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError:
        return
    yield from (name for name in names if os.path.isdir(parent / name))  # False, never an error
