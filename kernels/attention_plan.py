"""Which cached keys each row of a step attends to, worked out once and used by every layer.

Sequences with one new row (decodes) run together in groups of similar length; a prompt chunk runs
alone. Keys are copied out of their blocks before the product, so a group pays for its longest
member: the padding of a group is bounded, and so is the copy.

Padding repeats the sequence's own last key. It is masked, but 0 * NaN is NaN, so a masked key of
another sequence could still spoil this one.

Legend: T rows, S sequences of a group, Q rows of each, L keys of each (padded).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lorax_serve.kernels.attention_batch import AttentionBatch

# One more group costs as much time as copying this many keys (measured on two x86 cores).
MAX_PADDING = 256
# Keys copied at once, so that the copy is still in the cache of a core when it is read. A group of
# sequences never holds more, a single long sequence may.
MAX_GROUP_KEYS = 2048

Rows = slice | torch.Tensor  # a contiguous run of the step's rows, or their numbers [S] int64


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    rows: Rows  # the S * Q rows of the step
    key_slots: torch.Tensor  # [S * L] int64: places in the cache, sequence after sequence
    mask: torch.Tensor | None  # additive; [S, 1, 1, L] for decodes, [Q, L] for a prompt chunk
    num_sequences: int
    num_keys: int  # L
    is_prompt: bool
    is_causal: bool  # without mask: query i sees keys 0..i


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    groups: tuple[AttentionGroup, ...]
    scratch: torch.Tensor  # [max S * L, 2, K, D]: where a group's keys and values are copied


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One sequence of the batch: its place, its rows, and the keys any of them can see."""

    index: int
    row: int
    num_queries: int
    first_key: int
    num_keys: int


def plan_attention(
    batch: AttentionBatch, cache: torch.Tensor, *, sliding_window: int | None
) -> AttentionPlan:
    """Plan a step for layers with this window.

    `cache` is any layer's, [num_blocks, block_size, 2, K, D]: it gives sizes and dtype only.
    """
    block_size = cache.shape[1]
    sequences = _sequences(batch, sliding_window)
    decodes = [sequence for sequence in sequences if sequence.num_queries == 1]
    groups = [
        _decode_group(batch, members, block_size, cache.dtype) for members in _similar(decodes)
    ]
    groups += [
        _prompt_group(batch, sequence, block_size, cache.dtype, sliding_window)
        for sequence in sequences
        if sequence.num_queries > 1
    ]
    max_keys = max(group.num_sequences * group.num_keys for group in groups)
    return AttentionPlan(tuple(groups), cache.new_empty((max_keys, *cache.shape[2:])))


def _sequences(batch: AttentionBatch, sliding_window: int | None) -> list[_Sequence]:
    indptr = batch.query_indptr.tolist()
    sequences = []
    for index, context_len in enumerate(batch.context_lens.tolist()):
        row, num_queries = indptr[index], indptr[index + 1] - indptr[index]
        first_key = 0
        if sliding_window is not None:
            first_key = max(0, context_len - num_queries - sliding_window + 1)
        sequences.append(_Sequence(index, row, num_queries, first_key, context_len - first_key))
    return sequences


def _similar(decodes: list[_Sequence]) -> Iterator[list[_Sequence]]:
    """Divide into groups of similar length, longest first; one group keeps the step's order."""
    if _padding(decodes) <= MAX_PADDING and _padded(decodes) <= MAX_GROUP_KEYS:
        if decodes:
            yield decodes
        return
    group: list[_Sequence] = []
    for sequence in sorted(decodes, key=lambda sequence: -sequence.num_keys):
        extended = [*group, sequence]
        if group and (_padding(extended) > MAX_PADDING or _padded(extended) > MAX_GROUP_KEYS):
            yield group
            extended = [sequence]
        group = extended
    yield group


def _padded(group: list[_Sequence]) -> int:
    return len(group) * max((sequence.num_keys for sequence in group), default=0)


def _padding(group: list[_Sequence]) -> int:
    return _padded(group) - sum(sequence.num_keys for sequence in group)


def _decode_group(
    batch: AttentionBatch, members: list[_Sequence], block_size: int, dtype: torch.dtype
) -> AttentionGroup:
    num_keys = max(sequence.num_keys for sequence in members)
    offsets = torch.arange(num_keys)
    counts = torch.tensor([[sequence.num_keys] for sequence in members])
    mask = None
    if _padding(members):
        mask = torch.zeros(len(members), num_keys, dtype=dtype)
        mask = mask.masked_fill_(offsets >= counts, float("-inf"))[:, None, None, :]
        mask = mask.to(batch.block_tables.device)
    return AttentionGroup(
        rows=_rows(members, batch.block_tables.device),
        key_slots=_key_slots(batch, members, num_keys, block_size),
        mask=mask,
        num_sequences=len(members),
        num_keys=num_keys,
        is_prompt=False,
        is_causal=False,
    )


def _rows(members: list[_Sequence], device: torch.device) -> Rows:
    rows = [sequence.row for sequence in members]
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, device=device)


def _prompt_group(
    batch: AttentionBatch,
    sequence: _Sequence,
    block_size: int,
    dtype: torch.dtype,
    sliding_window: int | None,
) -> AttentionGroup:
    num_queries, num_keys = sequence.num_queries, sequence.num_keys
    is_causal = num_queries == num_keys and (sliding_window is None or num_keys <= sliding_window)
    mask = None
    if not is_causal:
        mask = _causal_mask(num_queries, num_keys, sliding_window, dtype)
        mask = mask.to(batch.block_tables.device)
    return AttentionGroup(
        rows=slice(sequence.row, sequence.row + num_queries),
        key_slots=_key_slots(batch, [sequence], num_keys, block_size),
        mask=mask,
        num_sequences=1,
        num_keys=num_keys,
        is_prompt=True,
        is_causal=is_causal,
    )


def _causal_mask(
    num_queries: int, num_keys: int, sliding_window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """Additive [Q, L]: the last query is at the last key."""
    keys = torch.arange(num_keys)
    queries = keys[num_keys - num_queries :].unsqueeze(1)
    hidden = keys > queries
    if sliding_window is not None:
        hidden |= keys <= queries - sliding_window
    return torch.zeros(num_queries, num_keys, dtype=dtype).masked_fill_(hidden, float("-inf"))


def _key_slots(
    batch: AttentionBatch, members: list[_Sequence], num_keys: int, block_size: int
) -> torch.Tensor:
    """Cache places of `num_keys` keys of each member; the last key fills the padding."""
    device = batch.block_tables.device
    indices = torch.tensor([sequence.index for sequence in members], device=device)
    first = torch.tensor([[sequence.first_key] for sequence in members], device=device)
    counts = torch.tensor([[sequence.num_keys] for sequence in members], device=device)
    positions = first + torch.arange(num_keys, device=device).minimum(counts - 1)
    blocks = batch.block_tables.index_select(0, indices).gather(1, positions // block_size)
    return (blocks.long() * block_size + positions % block_size).flatten()
