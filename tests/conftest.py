"""Takes the checkout's root off sys.path, where `kernels` and `server` would be found as packages
of their own.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
