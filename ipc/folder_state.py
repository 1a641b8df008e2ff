"""What changes whenever the files of an adapter's folder do, told without reading them.

The frontend names the state that a request means; the engine, which reads the files later, holds
what it has read against it. Neither name nor size nor time of modification tells two files apart:
archives unpack other bytes of the same size with the same time, and the inode may be that of the
file before. The time of the last change (st_ctime) nobody can set.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

_CONFIG_NAME = "adapter_config.json"
_WEIGHTS_PREFIX = "adapter_model."


class FileState(NamedTuple):
    kind: int  # st_mode's
    num_bytes: int
    modified_ns: int
    changed_ns: int
    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        return cls(
            stat.S_IFMT(status.st_mode),
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_dev,
            status.st_ino,
        )


_NONE_OPENED: Mapping[str, FileState] = MappingProxyType({})


def folder_state(folder: Path, opened: Mapping[str, FileState] = _NONE_OPENED) -> str:
    """A digest of the names and states of the files an adapter consists of, through links.

    `opened` are the states of files that were read, by name, as they were when opened: where the
    digest is that of an earlier call without them, what was read is what lay there then, whatever
    lies there now. Raises OSError when the folder cannot be listed or a file not be looked at.
    """
    digest = hashlib.sha256()
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        if name == _CONFIG_NAME or name.startswith(_WEIGHTS_PREFIX):
            state = opened.get(name) or _state(folder / name)
            digest.update(f"{name}\0{state}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _state(path: Path) -> FileState | str:
    try:
        return FileState.of(path.stat())
    except FileNotFoundError:
        return "absent"  # a link to nowhere
