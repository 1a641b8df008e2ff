"""Reading an adapter's files into memory of our own.

Nothing is ever mapped: a mapped file that somebody truncates kills the process with SIGBUS. Only
regular files are opened, at most a given number of bytes is read, and a file that changes under
our hands is noticed.
"""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from lorax_serve.engine.adapters.file_watch import FileWatch
from lorax_serve.engine.adapters.read_memory import ReadMemory
from lorax_serve.engine.adapters.refusal import Refusal, changed, corrupt
from lorax_serve.ipc.folder_state import FileState
from lorax_serve.ipc.sizes import show_size
from lorax_serve.ipc.types import ErrorCode

# Read at once: a thread waits for the interpreter after each piece, and is heard of no more often.
_PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class FileContent:
    path: Path
    data: memoryview  # writable, and nobody else's
    state: FileState  # when it was opened


def read_file(path: Path, *, max_bytes: int, memory: ReadMemory, watch: FileWatch) -> FileContent:
    """The whole of a regular file; `watch` hears of each piece. Raises FileNotFoundError, and
    Refusal for any other trouble.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        raise corrupt(f"{path.name} cannot be opened") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise corrupt(f"{path.name} is not a regular file")
        if status.st_size > max_bytes:
            raise Refusal(
                ErrorCode.ADAPTER_TOO_LARGE,
                f"{path.name} has {show_size(status.st_size)}, more than the "
                f"{show_size(max_bytes)} that an adapter of the highest served rank "
                "(--max-adapter-rank) could need",
            )
        data = memory.take(status.st_size)
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            is_whole = _fill(data, file, watch) and not file.read(1)
    except OSError:
        raise corrupt(f"{path.name} cannot be read") from None
    finally:
        os.close(descriptor)
    if not is_whole:
        raise _changed(path)
    return FileContent(path, data, FileState.of(status))


def _fill(data: memoryview, file: io.RawIOBase, watch: FileWatch) -> bool:
    """Whether the file had enough bytes."""
    filled = 0
    while filled < len(data):
        count = file.readinto(data[filled : filled + _PIECE_BYTES])
        if not count:
            return False
        filled += count
        watch.heard()
    return True


def check_unchanged(content: FileContent) -> None:
    """Raises Refusal when the file is not the one that was read any more."""
    try:
        state = FileState.of(os.stat(content.path))
    except OSError:
        raise _changed(content.path) from None
    if state != content.state:
        raise _changed(content.path)


def describe_garbage(data: bytes | memoryview) -> str | None:
    """What usually lies where a file should be; None when it looks like none of that."""
    if not data:
        return "is empty"
    start = bytes(data[:64])
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is an HTML page"
    return None


def _changed(path: Path) -> Refusal:
    return changed(f"{path.name} changed while it was being read")
