"""Forward batches over sequences whose KV blocks lie scattered, built without the engine."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lorax_serve.engine.forward_batch import ForwardBatch
from lorax_serve.engine.kv_cache import KVCache
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.torch_attention import TorchAttention


@dataclass
class PagedSequence:
    """A sequence's known tokens and blocks; `num_cached` of the tokens have keys and values."""

    token_ids: list[int]
    block_table: list[int] = field(default_factory=list)
    num_cached: int = 0


class PagedModel:
    """A decoder with a cache whose blocks are handed out in random order."""

    def __init__(
        self, decoder: Decoder, *, num_blocks: int = 128, block_size: int = 4, seed: int = 0
    ) -> None:
        config = decoder.config
        self.decoder = decoder
        self.cache = KVCache(
            config,
            num_blocks,
            block_size,
            dtype=decoder.embedding.dtype,
            device=torch.device("cpu"),
        )
        self._free = random.Random(seed).sample(range(num_blocks), num_blocks)

    @torch.inference_mode()
    def step(self, chunks: Sequence[tuple[PagedSequence, int]]) -> list[torch.Tensor]:
        """Run `count` next tokens of each sequence; returns each one's logits [count, vocab]."""
        batch = self._batch(chunks)
        attention = TorchAttention().bind(batch.attention, self.cache.layers[0])
        hidden = self.decoder.forward(batch, self.cache, attention, None)
        logits = self.decoder.logits(hidden, None)
        for sequence, count in chunks:
            sequence.num_cached += count
        return list(torch.split(logits, [count for _, count in chunks]))

    def generate(self, prompt: Sequence[int], num_tokens: int, chunk: int) -> list[int]:
        """Greedy tokens of one sequence, its prompt fed in chunks."""
        sequence = PagedSequence(list(prompt))
        while len(sequence.token_ids) < len(prompt) + num_tokens:
            count = min(chunk, len(sequence.token_ids) - sequence.num_cached)
            logits = self.step([(sequence, count)])[0]
            if sequence.num_cached == len(sequence.token_ids):
                sequence.token_ids.append(int(logits[-1].argmax()))
        return sequence.token_ids[len(prompt) :]

    def _batch(self, chunks: Sequence[tuple[PagedSequence, int]]) -> ForwardBatch:
        ids, positions, slots, indptr = [], [], [], [0]
        for sequence, count in chunks:
            end = sequence.num_cached + count
            self._grow(sequence, end)
            for position in range(sequence.num_cached, end):
                ids.append(sequence.token_ids[position])
                positions.append(position)
                slots.append(self._slot(sequence, position))
            indptr.append(len(ids))
        attention = attention_batch(
            slots,
            [sequence.block_table for sequence, _ in chunks],
            indptr,
            [sequence.num_cached + count for sequence, count in chunks],
        )
        return ForwardBatch(
            input_ids=torch.tensor(ids),
            positions=torch.tensor(positions),
            attention=attention,
            sampled_rows=torch.arange(len(ids)),
        )

    def _grow(self, sequence: PagedSequence, num_tokens: int) -> None:
        while len(sequence.block_table) * self.cache.block_size < num_tokens:
            sequence.block_table.append(self._free.pop())

    def _slot(self, sequence: PagedSequence, position: int) -> int:
        block, offset = divmod(position, self.cache.block_size)
        return sequence.block_table[block] * self.cache.block_size + offset


def attention_batch(
    slots: Sequence[int],
    block_tables: Sequence[Sequence[int]],
    indptr: Sequence[int],
    context_lens: Sequence[int],
) -> AttentionBatch:
    width = max(len(table) for table in block_tables)
    padded = [[*table, *([0] * (width - len(table)))] for table in block_tables]
    counts = [end - start for start, end in itertools.pairwise(indptr)]
    return AttentionBatch(
        slot_mapping=torch.tensor(slots, dtype=torch.int64),
        block_tables=torch.tensor(padded, dtype=torch.int32),
        query_indptr=torch.tensor(indptr, dtype=torch.int32),
        context_lens=torch.tensor(context_lens, dtype=torch.int32),
        num_decodes=sum(count == 1 for count in counts),
        max_query_len=max(counts),
        max_context_len=max(context_lens),
    )
