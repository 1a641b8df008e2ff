"""What an adapter's files are called, and the digest that says which bytes they are."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

CONFIG_FILE: Final = "adapter_config.json"
WEIGHT_FILE: Final = "adapter_model.safetensors"
TEMPLATE_FILE: Final = "chat_template.jinja"
TOKENIZER_FILE: Final = "tokenizer_config.json"  # may hold a chat template; nothing else counts

# Where a chat template may be, with the most bytes that such a file may have. A template has some
# kilobytes; a tokenizer's configuration may list every added token.
TEMPLATE_FILES: Final[Mapping[str, int]] = MappingProxyType(
    {TEMPLATE_FILE: 2**18, TOKENIZER_FILE: 2**23}
)

# Size, time of modification in nanoseconds, inode: others once the file is another, or changed.
FileState = tuple[int, int, int]
FolderState = dict[str, FileState]  # by file name

_SHARD: Final = re.compile(r"adapter_model-[0-9]{5}-of-[0-9]{5}\.safetensors")
# Part of every digest, so that another way of counting can never give an equal one.
_TAG: Final = b"lorax-serve adapter 1\n"


def is_adapter_file(name: str) -> bool:
    """Whether every adapter has a file of this name."""
    return name in (CONFIG_FILE, WEIGHT_FILE)


def is_kept_file(name: str) -> bool:
    """Whether a file of this name is ever fetched or kept. Nothing else gets onto the disk."""
    return is_adapter_file(name) or name in TEMPLATE_FILES


def is_shard(name: str) -> bool:
    """Whether a file of this name is a part of an adapter's weights, which nothing here reads."""
    return _SHARD.fullmatch(name) is not None


def content_digest(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 hex over the (name, SHA-256 hex) of an adapter's files, whatever their order."""
    digest = hashlib.sha256(_TAG)
    for name, sha256 in sorted(files):
        digest.update(f"{name} {sha256}\n".encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 hex of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """The content digest of the adapter in `folder`. Raises OSError."""
    return content_digest((name, file_digest(folder / name)) for name in os.listdir(folder))


def file_state(path: Path) -> FileState:
    """Raises OSError."""
    status = path.stat(follow_symlinks=False)
    return status.st_size, status.st_mtime_ns, status.st_ino


def folder_state(folder: Path) -> FolderState:
    """What tells, without reading them, whether a flat folder's files are still the same. Raises
    OSError.
    """
    return {name: file_state(folder / name) for name in os.listdir(folder)}


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power failure. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes survive a power failure. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
