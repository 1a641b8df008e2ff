"""CUDA graphs of decode steps: one per batch size of a ladder, with adapters and without.

A graph reads its inputs from fixed places of the step buffer and leaves the hidden states in a
fixed place. Adapters, ranks and lengths are data in that buffer: no graph is captured for them.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lorax_serve.engine.cuda.step_arrays import StepArrays, StepLayout

Forward = Callable[[StepArrays[torch.Tensor], bool], torch.Tensor]


def ladder(max_batch: int) -> tuple[int, ...]:
    """Batch sizes worth a graph: powers of two up to 8, multiples of 8 after, then the largest."""
    sizes = {size for size in (1, 2, 4) if size <= max_batch}
    return tuple(sorted(sizes | set(range(8, max_batch + 1, 8)) | {max_batch}))


@dataclass(frozen=True, slots=True)
class DecodeGraph:
    layout: StepLayout
    graph: torch.cuda.CUDAGraph
    hidden: torch.Tensor  # [batch, E], valid until any other graph runs


class DecodeGraphs:
    """Captures at start, replays ever after."""

    def __init__(
        self, forward: Forward, buffer: torch.Tensor, sizes: Sequence[int], table_width: int
    ) -> None:
        """`forward(views, with_lora)` enqueues a decode step; `buffer` is the step buffer."""
        self._forward = forward
        self._buffer = buffer
        self._sizes = tuple(sorted(sizes))
        self._table_width = table_width
        self._graphs: dict[tuple[int, bool], DecodeGraph] = {}

    def capture(self, report: Callable[[float], None]) -> None:
        """Capture every graph, largest first: smaller ones fit into the memory of larger ones."""
        pool = torch.cuda.graph_pool_handle()
        wanted = [(size, lora) for size in reversed(self._sizes) for lora in (False, True)]
        with _no_garbage_collection():
            for index, (size, with_lora) in enumerate(wanted):
                self._graphs[size, with_lora] = self._capture_one(size, with_lora, pool)
                report((index + 1) / len(wanted))

    def find(self, num_sequences: int, with_lora: bool) -> DecodeGraph | None:
        """The smallest captured graph that holds this many sequences."""
        for size in self._sizes:
            if size >= num_sequences and (size, with_lora) in self._graphs:
                return self._graphs[size, with_lora]
        return None

    def _layout(self, size: int) -> StepLayout:
        return StepLayout(
            num_rows=size,
            num_sequences=size,
            table_width=self._table_width,
            num_sampled=size,
            num_tiles=size,
            num_head_tiles=size,
        )

    def _capture_one(self, size: int, with_lora: bool, pool: Any) -> DecodeGraph:
        layout = self._layout(size)
        views = layout.device_views(self._buffer)
        _pad(views)
        # Kernels are compiled and libraries choose their algorithms outside of the capture.
        self._forward(views, with_lora)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            hidden = self._forward(views, with_lora)
        return DecodeGraph(layout, graph, hidden)


def _pad(views: StepArrays[torch.Tensor]) -> None:
    """Make every row padding: nothing is written, no adapter is used."""
    for section in (views.input_ids, views.positions, views.block_tables):
        section.zero_()
    for section in (views.sources, views.slot_mapping, views.tiles, views.head_tiles):
        section.fill_(-1)
    views.context_lens.fill_(1)
    num_rows = len(views.query_indptr)
    views.query_indptr.copy_(torch.arange(num_rows, device=views.query_indptr.device))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in mid-capture could free a tensor of another stream, which ends the capture."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
