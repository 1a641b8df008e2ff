"""Adapters in GPU memory: one copy per adapter on a side stream, published by an event."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from lorax_serve.engine.adapters.label_head import LabelHead
from lorax_serve.engine.adapters.slab import PackedAdapter, SlabLayout
from lorax_serve.kernels.lora import LoraSite
from lorax_serve.kernels.lora_table import Int64s, LoraTable
from lorax_serve.kernels.triton.lora_delta import LoraWeightsOnDevice

_MAX_SLOTS = 4096  # rows of the table; a rank-1 adapter of a small model takes 0.1 MB
_MAX_LAYOUTS = 64  # whose rows are remembered: most adapters are laid out as others are
# One engine of the device takes all copies from the host: what a step samples with would wait for
# the whole of an adapter.
_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy on its way, and the slab it reads, if that is nobody else's to keep."""

    done: torch.cuda.Event
    slab: torch.Tensor


class CudaSlabs:
    """A SlabMemory whose adapters the SGMV kernels find through a table on the device."""

    transposed_a = False
    max_slots = _MAX_SLOTS

    def __init__(
        self,
        sites: Sequence[LoraSite],
        *,
        capacity_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.dtype = dtype
        self.capacity_bytes = capacity_bytes
        self._device = device
        self._stream = torch.cuda.Stream(device)
        layout = LoraTable.of(sites)
        self.weights = LoraWeightsOnDevice.of(
            layout,
            slab=torch.empty(capacity_bytes // dtype.itemsize, dtype=dtype, device=device),
            table=torch.zeros(_MAX_SLOTS, layout.width, dtype=torch.int64, device=device),
        )
        # A slot's row is written again only when the slot is reused, long after its copy was done.
        self._table_rows = torch.zeros(self.weights.table.shape, dtype=torch.int64, pin_memory=True)
        self._offset_columns = layout.offset_columns
        self._row = lru_cache(_MAX_LAYOUTS)(self._row_at_start)
        self._num_chunk_elements = _CHUNK_BYTES // dtype.itemsize
        self._copies: dict[int, _Copy] = {}  # by slot, of those not known to be done
        self._max_ranks: dict[int, int] = {}  # by slot
        self._heads: dict[int, LabelHead | None] = {}  # by slot
        self._on_head: frozenset[int] = frozenset()  # slots

    def write(self, index: int, start: int, packed: PackedAdapter) -> None:
        layout = packed.layout
        first = start // self.dtype.itemsize
        row, max_ranks = self._row(layout)
        row = row.copy()
        row[self._offset_columns] += first
        self._table_rows[index] = torch.from_numpy(row)
        # What lay here may still be read by the steps in flight.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        done = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            destination = self.weights.slab[first : first + layout.num_elements]
            for part in range(0, layout.num_elements, self._num_chunk_elements):
                chunk = slice(part, part + self._num_chunk_elements)
                destination[chunk].copy_(packed.slab[chunk], non_blocking=True)
            self.weights.table[index].copy_(self._table_rows[index], non_blocking=True)
            done.record(self._stream)
        self._copies[index] = _Copy(done, packed.slab)
        self._heads[index] = layout.label_head(destination)
        self._max_ranks[index] = max_ranks
        targets_head = layout.ranks[-1] > 0
        self._on_head = self._on_head | {index} if targets_head else self._on_head - {index}

    def is_written(self, index: int) -> bool:
        copy = self._copies.get(index)
        if copy is None:
            return True
        if not copy.done.query():
            return False
        del self._copies[index]
        return True

    def order_steps_after(self, index: int) -> None:
        copy = self._copies.get(index)
        if copy is not None:
            torch.cuda.current_stream(self._device).wait_event(copy.done)

    def max_ranks(self, slots: Collection[int]) -> int:
        """The most ranks any of these slots has at one site. At least one slot."""
        return max(self._max_ranks[slot] for slot in slots)

    def label_head(self, index: int) -> LabelHead | None:
        return self._heads[index]

    def head_slots(self, slots: Iterable[int]) -> frozenset[int]:
        """Those of the slots that target the last site, the model's head."""
        return self._on_head.intersection(slots)

    def _row_at_start(self, layout: SlabLayout) -> tuple[Int64s, int]:
        """The row of a slab so laid out that begins at element 0, and the most ranks of a site."""
        table = self.weights.layout
        max_ranks = max(
            sum(layout.ranks[first : first + len(site.targets)])
            for site, first in zip(table.sites, table.first_targets, strict=True)
        )
        return table.row(0, layout.a_offsets, layout.b_offsets, layout.ranks), max_ranks
