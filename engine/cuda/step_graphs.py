"""CUDA graphs of steps: decodes alone, and decodes beside a few short prompts; with adapters and
without.

A graph reads its inputs from fixed places of the step buffer and leaves the hidden states in a
fixed place. Adapters, ranks and lengths are data in that buffer: no graph is captured for them.

Launched kernel by kernel, a step with prompts of 64 tokens keeps the host busy for longer than the
device (docs/performance.md), and everybody's next token waits for it. From some 512 rows on the
device takes longer than the host, and longer still with rows of padding.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lorax_serve.engine.cuda.step_arrays import StepArrays, StepLayout, StepShape

Forward = Callable[[StepArrays[torch.Tensor], StepShape, bool], torch.Tensor]

GRAPHS_A_SHAPE = 2  # with adapters and without
_PROMPT_ROWS = (64, 128, 256, 512)
_ROWS_A_PROMPT = 16  # on the average, at least: many prompts are short but for their cached prefix
_DECODES_BESIDE_PROMPTS = (8, 32, 128, 512)


def graph_shapes(max_num_sequences: int, max_batch_tokens: int) -> tuple[StepShape, ...]:
    """Shapes worth a graph, fewest rows first.

    Decodes alone: powers of two up to 8, multiples of 8 after, then the largest. Prompts: each
    padded to less than twice its rows, since those are computed too.
    """
    sizes = {size for size in (1, 2, 4) if size <= max_num_sequences}
    sizes |= {*range(8, max_num_sequences + 1, 8), max_num_sequences}
    beside = {size for size in _DECODES_BESIDE_PROMPTS if size < max_num_sequences}
    mixed = {
        StepShape(num_decodes, num_rows // _ROWS_A_PROMPT, num_rows)
        for num_decodes in (*beside, max_num_sequences)
        for num_rows in _PROMPT_ROWS
        if num_rows <= max_batch_tokens
    }
    shapes = {StepShape(size) for size in sizes} | mixed
    return tuple(sorted(shapes, key=lambda shape: (shape.num_rows, shape.num_decodes)))


@dataclass(frozen=True, slots=True)
class StepGraph:
    layout: StepLayout
    graph: torch.cuda.CUDAGraph
    hidden: torch.Tensor  # [rows, E], valid until any other graph runs


class StepGraphs:
    """Captures at start, replays ever after."""

    def __init__(
        self, forward: Forward, buffer: torch.Tensor, layouts: Sequence[StepLayout]
    ) -> None:
        """`forward(views, shape, with_lora)` enqueues a step; `buffer` is the step buffer.

        `layouts` come with fewest rows first.
        """
        self._forward = forward
        self._buffer = buffer
        self._layouts = tuple(layouts)
        self._graphs: dict[tuple[StepShape, bool], StepGraph] = {}

    def capture(self, report: Callable[[float], None]) -> None:
        """Capture every graph, largest first: smaller ones fit into the memory of larger ones."""
        pool = torch.cuda.graph_pool_handle()
        wanted = [(layout, lora) for layout in reversed(self._layouts) for lora in (False, True)]
        with _no_garbage_collection():
            for index, (layout, with_lora) in enumerate(wanted):
                captured = self._capture_one(layout, with_lora, pool)
                self._graphs[layout.shape, with_lora] = captured
                report((index + 1) / len(wanted))

    def find(self, needed: StepShape, with_lora: bool) -> StepGraph | None:
        """The captured graph with fewest rows that holds such a step."""
        for layout in self._layouts:
            if layout.shape.holds(needed) and (layout.shape, with_lora) in self._graphs:
                return self._graphs[layout.shape, with_lora]
        return None

    def _capture_one(self, layout: StepLayout, with_lora: bool, pool: Any) -> StepGraph:
        shape = layout.shape
        views = layout.device_views(self._buffer)
        _pad(views, shape)
        # Kernels are compiled and libraries choose their algorithms outside of the capture.
        self._forward(views, shape, with_lora)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            hidden = self._forward(views, shape, with_lora)
        return StepGraph(layout, graph, hidden)


def _pad(views: StepArrays[torch.Tensor], shape: StepShape) -> None:
    """Make every row padding: nothing is written, no adapter is used."""
    for section in (views.input_ids, views.positions, views.block_tables):
        section.zero_()
    for section in (views.sources, views.slot_mapping, views.tiles, views.head_tiles):
        section.fill_(-1)
    views.context_lens.fill_(1)
    ends = torch.arange(len(views.query_indptr), device=views.query_indptr.device)
    views.query_indptr.copy_(ends.clamp(max=shape.num_decodes))


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
