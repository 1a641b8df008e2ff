"""What an adapter's classification head says of a prompt, while it is computed chunk by chunk.

A step's logits [n, L] become probabilities here, in float64: softmax over the labels, or the
logistic function where there is one label, as transformers' classification pipelines do it.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lorax_serve.ipc.types import HeadKind

Logits: TypeAlias = npt.NDArray[np.float64]  # [n, L]


class LabelledPrompt:
    """One request's probabilities in the making."""

    needs_every_row = True  # which kind of head there is shows only with its adapter

    def __init__(self) -> None:
        self._chunks: list[Logits] = []

    def num_wanted(self, num_tokens: int, *, is_last: bool) -> int:
        """Of a chunk of so many tokens, the rows at its end that the head is shown."""
        return num_tokens

    def add(self, logits: Logits, *, first: int, num_rows: int) -> None:
        """Those of the `num_rows` positions from `first` on.

        Chunks come in order. A sequence that was preempted is computed from its first token again,
        and then so is this.
        """
        assert len(logits) == num_rows, "a row for each position"
        if first == 0:
            self._chunks.clear()
        self._chunks.append(logits)

    def probabilities(self, kind: HeadKind) -> npt.NDArray[np.float32]:
        """[1, L] of a sequence, [T, L] of its tokens. All of the prompt has been added."""
        rows = np.concatenate(self._chunks) if kind is HeadKind.TOKEN else self._chunks[-1][-1:]
        return _probabilities(rows).astype("<f4")


def _probabilities(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if logits.shape[1] == 1:
        # Not 1 / (1 + exp(-x)), which overflows and warns for a label that is far from likely.
        return np.asarray(np.exp(-np.logaddexp(0, -logits)))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
