"""Runs steps on a GPU; waits for sampled ids alone, and for the step buffer two steps ahead.

Decodes, also beside short prompts, replay a CUDA graph; other steps are launched kernel by kernel.
A step's integers go over in one copy; pending ids are where the step before left them.
"""

from collections.abc import Callable

import numpy as np
import torch

from lorax_serve.engine.cuda.fill_step import fill_step
from lorax_serve.engine.cuda.launched_step import CudaStep, StepResults
from lorax_serve.engine.cuda.runner_limits import RunnerLimits
from lorax_serve.engine.cuda.slabs import CudaSlabs
from lorax_serve.engine.cuda.step_arrays import (
    Int32s,
    StepArrays,
    StepLayout,
    StepShape,
    StepUpload,
)
from lorax_serve.engine.cuda.step_graphs import StepGraphs
from lorax_serve.engine.forward_batch import ForwardBatch, row_segments, sampled_segments
from lorax_serve.engine.kv_cache import KVCache
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.prompt_rows import prompt_rows
from lorax_serve.engine.prompt_scores import score_prompts
from lorax_serve.engine.sampling.upload import Upload
from lorax_serve.engine.sequence import Sequence
from lorax_serve.engine.step import Step
from lorax_serve.kernels.attention_backend import AttentionBackend
from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.lora import BASE_SLOT, Segments
from lorax_serve.kernels.lora_table import tiles_of
from lorax_serve.kernels.triton.input_ids import resolve_input_ids
from lorax_serve.kernels.triton.lora_delta import (
    DECODE,
    PROMPT,
    SHORT_PROMPT,
    SgmvShapes,
    TritonLoraDelta,
    warm_up,
)

_NO_TILES = np.empty((0, 3), dtype=np.int32)


def _sgmv_shapes(graph: StepShape) -> SgmvShapes:
    return SHORT_PROMPT if graph.num_prompts else DECODE


class CudaRunner:
    """The model, its KV cache and the adapters' memory on one GPU."""

    overlaps = True

    def __init__(
        self,
        model: Decoder,
        kv_cache: KVCache,
        slabs: CudaSlabs,
        attention: AttentionBackend,
        limits: RunnerLimits,
        graph_shapes: tuple[StepShape, ...],
    ) -> None:
        """`graph_shapes`: of steps to capture by `capture`, fewest rows first; empty: no graphs."""
        self._model = model
        self._kv_cache = kv_cache
        self._slabs = slabs
        self._attention = attention
        self._max_model_len = limits.max_model_len
        self._table_width = -(-limits.max_model_len // kv_cache.block_size)
        self._upload = StepUpload(self._max_elements(limits, graph_shapes), kv_cache.device)
        self._sampled = torch.zeros(
            limits.max_num_sequences, dtype=torch.int32, device=kv_cache.device
        )
        self._sampled_before: dict[Sequence, int] = {}  # places in _sampled of the newest step
        self._fetch_stream = torch.cuda.Stream(kv_cache.device)
        self._fork = torch.cuda.Stream(kv_cache.device)
        self._partials = slabs.weights.partials(
            DECODE, max((each.num_rows for each in graph_shapes), default=1), limits.max_site_ranks
        )
        self.num_eager_decodes = 0  # steps of decodes alone for which there was no graph
        self._graphs = StepGraphs(
            self._forward_padded,
            self._upload.device_buffer,
            [self._graph_layout(shape) for shape in graph_shapes],
        )

    @torch.inference_mode()
    def capture(self, report: Callable[[float], None]) -> None:
        """Compile kernels and capture the graphs, before any adapter is placed.

        `report` gets fractions from 0 to 1.
        """
        for shapes in (PROMPT, DECODE):  # the head's decodes are in no graph
            warm_up(self._slabs.weights, shapes)
        self._graphs.capture(report)

    @torch.inference_mode()
    def launch(self, step: Step) -> "CudaStep":
        """Enqueue the forward pass. Waits only while the step before the last has not begun."""
        with_lora = any(item.adapter_slot != BASE_SLOT for item in step.scheduled)
        shape = StepShape.of(step)
        # The rows of a prompt whose logprobs are wanted are read in the order of the step.
        graph = None if step.scoring else self._graphs.find(shape, with_lora)
        num_padded = 0 if graph is None else graph.layout.shape.num_decodes - shape.num_decodes
        head_slots = self._slabs.head_slots(item.adapter_slot for item in step.sampling)
        head_tiles = _NO_TILES
        if head_slots:
            head_tiles = tiles_of(sampled_segments(step), DECODE.tile_rows)
        if graph is not None:
            segments = row_segments(step, num_padded=num_padded)
            tiles = tiles_of(segments, _sgmv_shapes(graph.layout.shape).tile_rows)
            views = self._send(step, graph.layout, tiles, head_tiles)
            graph.graph.replay()
            hidden = graph.hidden
        else:
            self.num_eager_decodes += shape.num_prompts == 0
            tiles = tiles_of(row_segments(step), PROMPT.tile_rows)
            views = self._send(step, self._layout(step, shape, tiles), tiles, head_tiles)
            hidden = self._forward_rows(step, views)
        logits = self._logits(step, views, hidden, head_slots)
        vocab_size = self._model.config.vocab_size
        scores = score_prompts(step, hidden, vocab_size=vocab_size, logits_of=self._scored_logits)
        rows = prompt_rows(step, hidden, self._slabs.label_head, num_padded=num_padded)
        return CudaStep(self, step, logits, scores, rows)

    def _send(
        self, step: Step, layout: StepLayout, tiles: Int32s, head_tiles: Int32s
    ) -> StepArrays[torch.Tensor]:
        fill_step(
            layout.host_views(self._upload.begin()),
            step,
            layout.shape,
            sampled_before=self._sampled_before,
            tiles=tiles,
            head_tiles=head_tiles,
            block_size=self._kv_cache.block_size,
        )
        self._upload.send(layout.num_elements)
        return layout.device_views(self._upload.device_buffer)

    def _layout(self, step: Step, shape: StepShape, tiles: Int32s) -> StepLayout:
        num_sampled = len(step.sampling)
        return StepLayout(
            shape,
            table_width=self._table_width,
            num_sampled=num_sampled,
            num_tiles=len(tiles),
            num_head_tiles=num_sampled,
        )

    def _forward_padded(
        self, views: StepArrays[torch.Tensor], shape: StepShape, with_lora: bool
    ) -> torch.Tensor:
        """Hidden states [T, E] of any step that fits the shape. Made to be captured."""
        batch = AttentionBatch(
            slot_mapping=views.slot_mapping,
            block_tables=views.block_tables,
            query_indptr=views.query_indptr,
            context_lens=views.context_lens,
            num_decodes=shape.num_decodes,
            max_query_len=max(shape.num_prompt_rows, 1),
            max_context_len=self._max_model_len,
        )
        weights = self._slabs.weights
        lora = TritonLoraDelta(
            weights, views.tiles, self._partials, _sgmv_shapes(shape), self._fork
        )
        return self._forward(views, batch, lora if with_lora else None)

    def _forward_rows(self, step: Step, views: StepArrays[torch.Tensor]) -> torch.Tensor:
        """Hidden states [T, E] of any step."""
        items = step.scheduled
        batch = AttentionBatch(
            slot_mapping=views.slot_mapping,
            block_tables=views.block_tables,
            query_indptr=views.query_indptr,
            context_lens=views.context_lens,
            num_decodes=step.num_decodes,
            max_query_len=max(item.num_tokens for item in items),
            max_context_len=max(item.start + item.num_tokens for item in items),
        )
        lora = None
        if len(views.tiles):
            slots = {item.adapter_slot for item in items} - {BASE_SLOT}
            max_ranks = self._slabs.max_ranks(slots)
            partials = self._slabs.weights.partials(PROMPT, step.num_tokens, max_ranks)
            lora = TritonLoraDelta(self._slabs.weights, views.tiles, partials, PROMPT)
        return self._forward(views, batch, lora)

    def _forward(
        self,
        views: StepArrays[torch.Tensor],
        attention: AttentionBatch,
        lora: TritonLoraDelta | None,
    ) -> torch.Tensor:
        input_ids = resolve_input_ids(views.input_ids, views.sources, self._sampled)
        batch = ForwardBatch(input_ids, views.positions, attention, views.sampled_rows)
        bound = self._attention.bind(attention, self._kv_cache.layers[0])
        return self._model.forward(batch, self._kv_cache, bound, lora)

    def _logits(
        self,
        step: Step,
        views: StepArrays[torch.Tensor],
        hidden: torch.Tensor,
        head_slots: frozenset[int],
    ) -> torch.Tensor:
        """[N, vocab] of the sampled rows, of the model's dtype."""
        num_sampled = len(step.sampling)
        if num_sampled == step.num_tokens:
            sampled = hidden[:num_sampled]
        else:
            sampled = hidden.index_select(0, views.sampled_rows[:num_sampled])
        if not head_slots:
            return self._model.logits(sampled, None)
        weights = self._slabs.weights
        partials = weights.partials(DECODE, num_sampled, self._slabs.max_ranks(head_slots))
        return self._model.logits(
            sampled, TritonLoraDelta(weights, views.head_tiles, partials, DECODE)
        )

    def _scored_logits(self, hidden: torch.Tensor, segments: Segments) -> torch.Tensor:
        """[n, vocab] of a prompt's rows [n, E]; their tiles go over in a copy of their own."""
        head_slots = self._slabs.head_slots(segments.slots)
        if not head_slots:
            return self._model.logits(hidden, None)
        weights, upload = self._slabs.weights, Upload()
        tiles = upload.add(tiles_of(segments, PROMPT.tile_rows))
        upload.send(hidden.device)  # what is pinned is not reused before the copy is done
        partials = weights.partials(PROMPT, len(hidden), self._slabs.max_ranks(head_slots))
        return self._model.logits(hidden, TritonLoraDelta(weights, tiles.tensor, partials, PROMPT))

    def _max_elements(self, limits: RunnerLimits, graph_shapes: tuple[StepShape, ...]) -> int:
        num_sequences = limits.max_num_sequences
        num_rows = max(limits.max_batch_tokens, num_sequences)
        largest = StepLayout(
            StepShape(num_sequences, 0, num_rows - num_sequences),
            table_width=self._table_width,
            num_sampled=num_sequences,
            num_tiles=num_rows,
            num_head_tiles=num_sequences,
        )
        layouts = (largest, *map(self._graph_layout, graph_shapes))
        return max(layout.num_elements for layout in layouts)

    def _graph_layout(self, shape: StepShape) -> StepLayout:
        num_prompt_tiles = shape.num_prompts + shape.num_prompt_rows // SHORT_PROMPT.tile_rows
        return StepLayout(
            shape,
            table_width=self._table_width,
            num_sampled=shape.num_sequences,
            num_tiles=shape.num_decodes + num_prompt_tiles,
            num_head_tiles=shape.num_sequences,
        )

    def keep(self, step: Step, token_ids: torch.Tensor) -> None:
        """Leave the sampled ids [N] where the next step finds them."""
        self._sampled[: len(token_ids)].copy_(token_ids)
        self._sampled_before = {item.sequence: place for place, item in enumerate(step.sampling)}

    def fetch(self, results: StepResults) -> tuple[StepResults, torch.cuda.Event]:
        """Start copying results to the host beside what is launched next."""
        self._fetch_stream.wait_stream(torch.cuda.current_stream(self._kv_cache.device))
        done = torch.cuda.Event()
        with torch.cuda.stream(self._fetch_stream):
            on_host = results.to_host()
            done.record(self._fetch_stream)
        return on_host, done
