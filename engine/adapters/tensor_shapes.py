"""Many tensors that lie end to end, seen as what they are in one call.

Every call of a torch operator gives the interpreter's lock away and takes it back, which beside a
busy step loop means waiting for it; an adapter has hundreds of matrices.
"""

from collections.abc import Iterable, Sequence

import torch
from torch._utils import _unflatten_dense_tensors


class TensorShapes:
    """The shapes, in order. Immutable."""

    def __init__(self, shapes: Iterable[Sequence[int]]) -> None:
        self._templates = [torch.empty(tuple(shape), device="meta") for shape in shapes]
        self._empty = [i for i, each in enumerate(self._templates) if each.numel() == 0]

    def unflatten(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of `flat`, [num_elements]: a tensor of each shape."""
        views = _unflatten_dense_tensors(flat, self._templates)  # type: ignore[no-untyped-call]
        tensors = list(views)
        for index in self._empty:  # these come back without their shape
            tensors[index] = flat.new_empty(self._templates[index].shape)
        return tensors
