"""The layout: folders at the top that install as lorax_serve.<folder>, never under bare names."""

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOT = ROOT / ".src"
FOLDERS = ("server", "engine", "ipc", "kernels", "grammar")


@pytest.mark.parametrize("name", FOLDERS)
def test_each_link_leads_to_its_folder(name: str) -> None:
    link = SOURCE_ROOT / "lorax_serve" / name
    assert os.readlink(link) == f"../../{name}"
    assert link.resolve() == ROOT / name
    assert (link / "__init__.py").read_bytes() == b""


def test_there_is_a_link_for_every_folder_and_nothing_else() -> None:
    entries = {entry.name for entry in (SOURCE_ROOT / "lorax_serve").iterdir()}
    assert entries - {"__pycache__"} == {"__init__.py", "py.typed", *FOLDERS}


@pytest.mark.parametrize("name", FOLDERS)
def test_no_bare_name_resolves_inside_the_checkout(name: str) -> None:
    spec = importlib.util.find_spec(name)
    # A folder without __init__.py has no origin but is found all the same.
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    assert not [place for place in places if place and Path(place).is_relative_to(ROOT)]


def test_the_package_under_test_is_this_checkout() -> None:
    spec = importlib.util.find_spec("lorax_serve.server.cli")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / "server" / "cli.py"


def test_every_sub_folder_with_modules_is_a_package() -> None:
    for name in FOLDERS:
        for module in (ROOT / name).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), module


def test_a_wheel_holds_every_module_and_no_bare_name(tmp_path: Path) -> None:
    """Built from a copy, so that nothing is written into the checkout."""
    copy = tmp_path / "copy"
    for entry in ("pyproject.toml", "README.md", "LICENSE", ".src", *FOLDERS):
        subprocess.run(["cp", "-a", "--parents", entry, _made(copy)], cwd=ROOT, check=True)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True
    )
    [wheel] = tmp_path.glob("lorax_serve-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        f"lorax_serve/{module.relative_to(ROOT)}"
        for name in FOLDERS
        for module in (ROOT / name).rglob("*.py")
    }
    assert modules <= names
    assert {"lorax_serve/py.typed", "lorax_serve/server/openapi/openapi.json"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lorax_serve"}


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_the_console_script_is_the_command_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"lorax-serve": "lorax_serve.server.cli:main"}


def test_every_dependency_is_pinned_by_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {
        _normalized(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert {_normalized(_name(requirement)) for requirement in wanted} <= pinned


def _name(requirement: str) -> str:
    for mark in "<>=![; ":
        requirement = requirement.partition(mark)[0]
    return requirement


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
