"""Reading an adapter's files: whatever lies in their place is refused, and nothing stays open."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lorax_serve.engine.adapters.file_watch import FileWatch
from lorax_serve.engine.adapters.files import read_file
from lorax_serve.engine.adapters.read_memory import ReadMemory
from lorax_serve.engine.adapters.refusal import Refusal
from lorax_serve.ipc.types import ErrorCode

WATCH = FileWatch()


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


OBSTACLES: dict[str, tuple[Callable[[Path], object], ErrorCode]] = {
    "directory": (lambda path: path.mkdir(), ErrorCode.ADAPTER_CORRUPT),
    "linked directory": (lambda path: path.symlink_to(path.parent), ErrorCode.ADAPTER_CORRUPT),
    "fifo": (lambda path: os.mkfifo(path), ErrorCode.ADAPTER_CORRUPT),
    "device": (lambda path: path.symlink_to("/dev/zero"), ErrorCode.ADAPTER_CORRUPT),
    "endless link": (lambda path: path.symlink_to(path), ErrorCode.ADAPTER_CORRUPT),
    "too large": (lambda path: path.write_bytes(b"x" * 101), ErrorCode.ADAPTER_TOO_LARGE),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_no_file_of_ours_is_refused_and_closed(obstacle: str, tmp_path: Path) -> None:
    put, code = OBSTACLES[obstacle]
    put(tmp_path / "file")
    before = num_open_files()
    for _ in range(3):
        with pytest.raises(Refusal) as refused:
            read_file(tmp_path / "file", max_bytes=100, memory=ReadMemory(0), watch=WATCH)
        assert refused.value.code is code
        assert "file" in refused.value.reasons[0]
    assert num_open_files() == before


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refusal):
        read_file(
            tmp_path / "file" / "inside", max_bytes=100, memory=ReadMemory(0), watch=FileWatch()
        )


def test_a_missing_file_is_for_the_caller_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "file", max_bytes=100, memory=ReadMemory(0), watch=WATCH)


def test_a_disk_that_fails_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> os.stat_result:
        raise OSError(5, "Input/output error")

    (tmp_path / "file").touch()
    before = num_open_files()
    with monkeypatch.context() as patch, pytest.raises(Refusal, match="cannot be read"):
        patch.setattr("os.fstat", fail)
        read_file(tmp_path / "file", max_bytes=100, memory=ReadMemory(0), watch=WATCH)
    assert num_open_files() == before


def test_a_file_is_read_whole_and_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    before = num_open_files()
    content = read_file(tmp_path / "file", max_bytes=100, memory=ReadMemory(0), watch=WATCH)
    assert content.data == b"x" * 100
    assert num_open_files() == before
