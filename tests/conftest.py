"""Takes the checkout's root off sys.path, where `kernels` and `server` would be found as packages
of their own, and has Triton's interpreter run the GPU kernels where there is no GPU.
"""

import os
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# Read when a kernel is defined, so before any test module is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
