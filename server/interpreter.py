"""What the event loop needs of the interpreter. For its process, once everything is built."""

import gc
import sys
from typing import Final

# A thread that works in Python (a long prompt's tokens, a long reply) keeps the loop waiting for at
# most this long each time it comes back from the system, which is after every write.
_SWITCH_SECONDS: Final = 0.0002
# Python's own 700 would look through the tokens of every step.
_MAX_YOUNG_OBJECTS: Final = 20_000


def prepare_interpreter() -> None:
    """Keep others from stopping the loop for long."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    # What was made so far stays; collecting it over and over would stop all streams each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_MAX_YOUNG_OBJECTS)
