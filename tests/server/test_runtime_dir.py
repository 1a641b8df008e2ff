import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorax_serve.server.errors import StartError
from lorax_serve.server.runtime_dir import (
    MAX_SOCKET_PATH_BYTES,
    choose_runtime_parent,
    engine_endpoint,
    runtime_dir,
)

LEAVE_ONE_BEHIND = """
import os, sys
from pathlib import Path
from lorax_serve.server.runtime_dir import runtime_dir
with runtime_dir(Path(sys.argv[1])) as folder:
    (folder / "engine.sock").touch()
    os._exit(0)
"""


def test_the_folder_is_private_and_goes_with_the_block(tmp_path: Path) -> None:
    with runtime_dir(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "engine.sock").touch()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_goes_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), runtime_dir(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_folders_of_killed_servers_go_with_the_next_start(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAVE_ONE_BEHIND, str(tmp_path)], check=True)
    [abandoned] = tmp_path.iterdir()
    with runtime_dir(tmp_path) as first, runtime_dir(tmp_path) as second:
        assert not abandoned.exists()
        assert sorted(tmp_path.iterdir()) == sorted([first, second])  # live ones stay


def test_what_only_looks_like_a_folder_of_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lock").touch()
    (tmp_path / "lorax-serve-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "lorax-serve-new").mkdir()  # another server is just making it
    (tmp_path / "lorax-serve-file").touch()
    before = sorted(tmp_path.rglob("*"))
    with runtime_dir(tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_the_first_folder_with_a_short_enough_path_is_chosen(tmp_path: Path) -> None:
    long = tmp_path / ("x" * MAX_SOCKET_PATH_BYTES)
    long.mkdir()
    assert choose_runtime_parent([tmp_path / "absent", long, Path("/tmp")]) == Path("/tmp")


def test_a_socket_in_the_longest_folder_that_is_chosen_still_fits(tmp_path: Path) -> None:
    parent = Path("/tmp")
    with runtime_dir(parent) as folder:
        added = len(engine_endpoint(folder)) - len("ipc://") - len(str(parent))
    longest = MAX_SOCKET_PATH_BYTES - added
    fitting = tmp_path / ("x" * (longest - len(str(tmp_path)) - 1))
    too_long = fitting.with_name(fitting.name + "x")
    fitting.mkdir()
    too_long.mkdir()
    assert choose_runtime_parent([too_long, fitting]) == fitting


def test_without_a_usable_folder_the_sentence_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="XDG_RUNTIME_DIR"):
        choose_runtime_parent([tmp_path / "absent"])


def test_a_folder_that_cannot_be_made_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=os.strerror(2)), runtime_dir(tmp_path / "absent"):
        pass
