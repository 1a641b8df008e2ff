"""The engine as a child process; its configuration is the first line on its standard input."""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from lorax_serve.ipc.config import EngineConfig
from lorax_serve.server.child_process import ChildProcess, child_environment

ENGINE_COMMAND: Final = (sys.executable, "-P", "-m", "lorax_serve.engine")
_CREDENTIAL_SUFFIXES: Final = ("_TOKEN", "_SECRET", "_KEY", "_KEY_ID", "_PASSWORD")


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the engine sees of `environ`: it can import this same package, and has no credentials.

    It fetches nothing, so a token in its reach could only leak.
    """
    return {
        name: value
        for name, value in child_environment(environ).items()
        if not name.upper().endswith(_CREDENTIAL_SUFFIXES)
    }


class EngineProcess(ChildProcess):
    """A running engine. Whoever makes one must `stop` it, on the same event loop."""

    def __init__(
        self,
        config: EngineConfig,
        environment: Mapping[str, str],
        command: Sequence[str] = ENGINE_COMMAND,
    ) -> None:
        """Starts `command`. Raises StartError when the system cannot."""
        super().__init__("engine", msgspec.json.encode(config), environment, command)
