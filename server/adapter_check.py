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
from lorax_serve.server.errors import StartError
from lorax_serve.server.model_source import find_model_config
from lorax_serve.server.sources.layout import adapter_folder
from lorax_serve.server.store.content import CONFIG_FILE

EXIT_NOTHING_TO_CHECK: Final = 2
CHECK_COMMAND: Final = (sys.executable, "-P", "-m", "lorax_serve.engine.check_adapter")


def check_adapter(path: str, settings: Settings) -> int:
    """0 if the adapter can be served on the model that `settings` name, 1 if not, 2 if one of the
    two is not to be had. Says why, on standard output and error.
    """
    if not Path(path).is_dir():
        return _nothing_to_check(f"{path} is no folder.")
    try:
        folder = find_model_config(settings.server, _say)
    except StartError as error:
        return _nothing_to_check(str(error))
    name = settings.server.model_id or DEMO_ID
    engine = settings.engine_config(endpoint="", model_path=folder, model_name=name)
    inner = adapter_folder(lambda inner: os.path.lexists(Path(path, inner, CONFIG_FILE)))
    check = AdapterCheck(path=os.path.abspath(Path(path, inner)), engine=engine)
    environment = settings.surroundings.engine_environment
    finished = subprocess.run(
        CHECK_COMMAND, input=msgspec.json.encode(check), env=environment, check=False
    )
    return finished.returncode


def _nothing_to_check(reason: str) -> int:
    _say(f"lorax-serve: {reason}")
    return EXIT_NOTHING_TO_CHECK


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
