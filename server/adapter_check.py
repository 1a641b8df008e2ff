"""`lorax-serve adapters check`: whether an adapter's folder can be served, and if not why.

The engine's own loader looks at it, in a process of its own: torch is not for this one.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from lorax_serve.ipc.adapter_check import AdapterCheck
from lorax_serve.server.config import Settings
from lorax_serve.server.demo import HUB_ID as DEMO_ID
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.model_source import find_model_config
from lorax_serve.server.sources.layout import adapter_folder
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.store.content import CONFIG_FILE

EXIT_REFUSED: Final = 1
EXIT_NOTHING_TO_CHECK: Final = 2
CHECK_COMMAND: Final = (sys.executable, "-P", "-m", "lorax_serve.engine.check_adapter")


def check_adapter(path: str, settings: Settings) -> int:
    """0 if the adapter can be served on the model that `settings` name, 1 if not, 2 if one of the
    two is not to be had. Says why, on standard output and error.
    """
    asked, adapter_dir = Path(os.path.abspath(path)), settings.server.adapter_dir
    if not asked.is_dir():
        return _nothing_to_check(f"{path} is no folder.{_hint(path, adapter_dir)}")
    root = _directory_of(asked, adapter_dir)
    try:
        found = _as_served(asked, root)
        if found is None and root == adapter_dir:
            sys.stdout.write(f"{asked} cannot be served:\n  - {_leads_outside(asked, root)}\n")
            return EXIT_REFUSED
        folder = find_model_config(settings.server, _say)
    except StartError as error:
        return _nothing_to_check(str(error))
    if found is None:
        _say(f"Note: {_leads_outside(asked, root)}")
        found = _nested(asked.resolve())
    name = settings.server.model_id or DEMO_ID
    engine = settings.engine_config(endpoint="", model_path=folder, model_name=name)
    check = AdapterCheck(path=str(found), engine=engine)
    environment = settings.surroundings.engine_environment
    finished = subprocess.run(
        CHECK_COMMAND, input=msgspec.json.encode(check), env=environment, check=False
    )
    return finished.returncode


def _directory_of(asked: Path, adapter_dir: Path | None) -> Path:
    """The adapter directory in which requests would name it."""
    if adapter_dir is not None and asked != adapter_dir and asked.is_relative_to(adapter_dir):
        return adapter_dir
    return asked.parent


def _as_served(asked: Path, root: Path) -> Path | None:
    """What a server with this adapter directory reads for it; None where it finds nothing.

    Raises StartError.
    """
    adapters = LocalAdapters(root, allow_absolute=False)
    try:
        return Path(adapters.resolve(str(asked.relative_to(root))).path)
    except ServeError:
        return None


def _leads_outside(asked: Path, root: Path) -> str:
    real = asked.resolve()
    if real.is_relative_to(root.resolve()):
        return (
            f"{asked.name!r} is no name that a request can say, or its files cannot be looked at."
        )
    return (
        f"it leads to {real}, outside the adapter directory {root}: to requests it does not "
        "exist. Copy the folder there, or give a directory that holds both to --adapter-dir."
    )


def _nested(folder: Path) -> Path:
    """Where a layout keeps the files."""
    inner = adapter_folder(lambda inner: os.path.lexists(folder / inner / CONFIG_FILE))
    return folder / inner


def _hint(path: str, adapter_dir: Path | None) -> str:
    """For who gives the name that requests say."""
    if adapter_dir is None:
        return " It is the path of a folder that is checked, not an adapter's name."
    named = adapter_dir / path
    return f" Did you mean {named}?" if named.is_dir() else ""


def _nothing_to_check(reason: str) -> int:
    _say(f"lorax-serve: {reason}")
    return EXIT_NOTHING_TO_CHECK


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
