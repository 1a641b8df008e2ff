"""`lorax-serve` as it is, but with the stub engine.

python -P serve.py TICKS_FILE STEP_SECONDS [lorax-serve options]
"""

import functools
import sys
from pathlib import Path

from lorax_serve.server import cli, launch

if __name__ == "__main__":
    stub = Path(__file__).with_name("stub_engine.py")
    command = (sys.executable, "-P", str(stub), *sys.argv[1:3])
    launch.run = functools.partial(launch.run, engine_command=command)
    sys.exit(cli.main(sys.argv[3:]))
