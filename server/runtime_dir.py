"""The private folder of one running server, which holds the engine's socket."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lorax_serve.server.errors import StartError

_PREFIX: Final = "lorax-serve-"
_RANDOM_BYTES: Final = 8  # what mkdtemp appends
_LOCK: Final = "lock"
_SOCKET: Final = "engine.sock"
MAX_SOCKET_PATH_BYTES: Final = 103  # sun_path with its NUL: 104 on BSD and macOS, 108 on Linux


def choose_runtime_parent(candidates: Iterable[Path]) -> Path:
    """The first folder that can hold the engine's socket: writable, and its path not too long.

    Raises StartError when none can.
    """
    tried = []
    for parent in candidates:
        length = len(os.fsencode(parent / _PREFIX)) + _RANDOM_BYTES + len(f"/{_SOCKET}")
        if length <= MAX_SOCKET_PATH_BYTES and os.access(parent, os.W_OK | os.X_OK):
            return parent
        tried.append(str(parent))
    raise StartError(
        f"The engine's socket needs a writable folder with a short path; {', '.join(tried)} will "
        "not do. Set XDG_RUNTIME_DIR to one."
    )


@contextmanager
def runtime_dir(parent: Path) -> Iterator[Path]:
    """A fresh folder in `parent` that only this user can enter, gone when the block ends.

    A server that is killed outright cannot tidy up, but it lets go of its lock: the next one to
    start removes its folder. Raises StartError.
    """
    _remove_abandoned(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # mode 0700
    except OSError as error:
        raise StartError(f"Cannot make a folder in {parent}: {error.strerror}.") from error
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def engine_endpoint(folder: Path) -> str:
    """The engine's address in a folder made by `runtime_dir`."""
    return f"ipc://{folder / _SOCKET}"


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
        except OSError:
            continue  # in use: its lock is held; or just being made: it has none yet
