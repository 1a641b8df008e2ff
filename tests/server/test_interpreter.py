"""What a serving process asks of its interpreter; in one of its own, as it lasts."""

import subprocess
import sys

PROGRAM = """
import gc, sys
from lorax_serve.server.interpreter import prepare_interpreter
prepare_interpreter()
print(sys.getswitchinterval() < 0.001, gc.get_freeze_count() > 1000, gc.isenabled())
"""


def test_threads_get_short_turns_and_what_was_built_is_not_collected() -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "True", "True"]
