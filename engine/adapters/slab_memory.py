"""The memory adapters are placed in. Which slot lies where is decided by the pool.

Legend: a slot is named by its index, a slab is one adapter's matrices; see slab.py.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from lorax_serve.engine.adapters.label_head import LabelHead
from lorax_serve.engine.adapters.slab import PackedAdapter, slab_sites
from lorax_serve.kernels.lora import BASE_SLOT, LoraDelta, LoraSite, Segments
from lorax_serve.kernels.sgmv import SegmentsDelta, SiteWeights


class SlabMemory(Protocol):
    """One buffer for all adapters of a pool."""

    dtype: torch.dtype
    capacity_bytes: int
    max_slots: int
    transposed_a: bool  # how it wants adapters packed, see SlabLayout

    def write(self, index: int, start: int, packed: PackedAdapter) -> None:
        """Copy an adapter to byte `start`, as slot `index`, after all steps launched so far.

        May return before the copy is done; `packed` must not be changed any more.
        """

    def is_written(self, index: int) -> bool:
        """Whether the slot's copy is done: then any step may use it. Never blocks."""

    def order_steps_after(self, index: int) -> None:
        """Have the device run no step launched from now on before the slot's copy is done.

        Does not block, but every sequence of those steps waits with it.
        """

    def label_head(self, index: int) -> LabelHead | None:
        """The slot's classification head: views that hold while the slot is pinned."""


class TorchSlabs:
    """A buffer that is written at once and read by the torch twin."""

    transposed_a: bool
    max_slots = 1 << 30

    def __init__(
        self,
        sites: Sequence[LoraSite],
        *,
        capacity_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        assert all(site.index == index for index, site in enumerate(sites))
        self.dtype = dtype
        self.capacity_bytes = capacity_bytes
        self.transposed_a = device.type == "cpu"
        self._sites = tuple(sites)
        self._buffer = torch.empty(capacity_bytes // dtype.itemsize, dtype=dtype, device=device)
        self._weights: dict[int, tuple[SiteWeights | None, ...]] = {}  # by slot
        self._heads: dict[int, LabelHead | None] = {}  # by slot
        self._untouched: tuple[SiteWeights | None, ...] = (None,) * len(self._sites)

    def write(self, index: int, start: int, packed: PackedAdapter) -> None:
        first = start // self.dtype.itemsize
        slab = self._buffer[first : first + packed.layout.num_elements]
        slab.copy_(packed.slab)
        self._weights[index] = slab_sites(slab, self._sites, packed.layout)
        self._heads[index] = packed.layout.label_head(slab)

    def is_written(self, index: int) -> bool:
        return index in self._weights

    def order_steps_after(self, index: int) -> None:
        assert self.is_written(index), "copies are done at once"

    def label_head(self, index: int) -> LabelHead | None:
        return self._heads[index]

    def weights_of(self, index: int) -> tuple[SiteWeights | None, ...]:
        """A slot's matrices by site: views into the buffer."""
        return self._weights[index]

    def delta(self, segments: Segments) -> LoraDelta | None:
        """The LoRA part of a step whose rows lie in these segments; None when all are base rows."""
        if all(index == BASE_SLOT for index in segments.slots):
            return None
        return SegmentsDelta(
            segments,
            tuple(
                self._untouched if index == BASE_SLOT else self._weights[index]
                for index in segments.slots
            ),
        )
