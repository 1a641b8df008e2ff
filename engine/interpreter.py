"""What the loop needs of the interpreter. For its process, once the engine is built."""

import gc
import sys

_SWITCH_SECONDS = 0.0002
# Adapters on their way are some thousand objects each, and soon gone; Python's own 700 would have
# them looked through over and over, which stops the loop for a millisecond or two.
_MAX_YOUNG_OBJECTS = 20_000


def prepare_interpreter() -> None:
    """Keep others from stopping the loop for long."""
    # A loader thread that works in Python keeps the loop waiting for at most this long.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # What was made so far stays; collecting it over and over would stop all requests each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_MAX_YOUNG_OBJECTS)
