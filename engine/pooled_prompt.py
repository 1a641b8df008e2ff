"""What a prompt's final hidden states add up to, while it is computed chunk by chunk.

Sums are kept in float64: of 16-bit states they are exact, and of 32-bit ones so nearly that where a
prompt is cut into chunks, which depends on who else is there, does not show.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lorax_serve.ipc.types import Pooling

RowSum: TypeAlias = npt.NDArray[np.float64]  # [E]

_SHORTEST = 1e-12  # what is shorter is left as it is, as torch's `normalize` does


class PooledPrompt:
    """One request's vector in the making."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._total: RowSum | None = None
        self._num_rows = 0  # in the total

    @property
    def needs_every_row(self) -> bool:
        """Whether all of the prompt has to be computed, whatever is in the prefix cache."""
        return self._pooling is Pooling.MEAN

    def num_wanted(self, num_tokens: int, *, is_last: bool) -> int:
        """Of a chunk of so many tokens, the rows at its end to be summed."""
        if self._pooling is Pooling.MEAN:
            return num_tokens
        return 1 if is_last else 0

    def add(self, total: RowSum, *, first: int, num_rows: int) -> None:
        """The sum of the states at positions `first` and after.

        Chunks come in order. A sequence that was preempted is computed from its first token again,
        and then so is this.
        """
        if self._total is None or first == 0:
            self._total, self._num_rows = np.zeros_like(total), 0
        self._total += total
        self._num_rows += num_rows

    def vector(self) -> bytes:
        """[E] float32, little-endian, of length 1. All rows that are wanted have been added."""
        assert self._total is not None, "nothing was added"
        mean = self._total / self._num_rows
        unit = mean / max(float(np.linalg.norm(mean)), _SHORTEST)
        return unit.astype("<f4").tobytes()
