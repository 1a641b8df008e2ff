"""A runner without a model: it checks the KV bookkeeping and picks tokens by a hash.

Its cache remembers, for each slot, which token of which context was written there. A step whose
block tables do not lead to exactly the sequence's own context fails loudly.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from lorax_serve.engine.pooled_prompt import RowSum
from lorax_serve.engine.sequence import PENDING_TOKEN, Sequence
from lorax_serve.engine.step import ScheduledSequence, Step, StepOutput
from lorax_serve.ipc.types import TokenLogprob

VOCAB_SIZE = 97
HIDDEN_SIZE = 3


def next_token(token_ids: tuple[int, ...], adapter: str) -> int:
    """What the fake model says after a context: any function of context and adapter will do."""
    digest = hashlib.sha256(repr((token_ids, adapter)).encode()).digest()
    return int.from_bytes(digest[:4], "big") % VOCAB_SIZE


def hidden_state(token_ids: tuple[int, ...], adapter: str) -> RowSum:
    """What the fake model thinks of the last token of a context."""
    number = next_token(token_ids, adapter) + 1
    return np.array([1, number, number**2], np.float64)


class FakeRunner:
    """With `overlaps`, it behaves like a device: a step's tokens become known by `output` alone,
    and pending tokens are those the step before has sampled."""

    def __init__(self, *, num_blocks: int, block_size: int, overlaps: bool = False) -> None:
        self.overlaps = overlaps
        self._block_size = block_size
        self._slots: list[tuple[str, tuple[int, ...]] | None] = [None] * (num_blocks * block_size)
        # Contexts as the device knows them, of the sequences with a pending token.
        self._sampled: dict[Sequence, int] = {}
        self.steps: list[Step] = []
        self.broken: frozenset[str] = frozenset()

    def launch(self, step: Step) -> "FakeStep":
        self.steps.append(step)
        contexts = [self._context(item) for item in step.scheduled]
        for item, context in zip(step.scheduled, contexts, strict=True):
            self._write(item, context)
        picked = {
            item.sequence: self._pick(item, context)
            for item, context in zip(step.scheduled, contexts, strict=True)
            if item.samples
        }
        sums = tuple(map(self._sum, step.pooling))
        return FakeStep(self, step, picked, sums)

    def keep(self, picked: dict[Sequence, int]) -> None:
        self._sampled = picked

    def _context(self, item: ScheduledSequence) -> tuple[int, ...]:
        """The tokens up to the item's end, the pending one resolved."""
        known = item.sequence.tokens(0, item.start + item.num_tokens)
        assert known[item.start :] == item.token_ids
        assert PENDING_TOKEN not in known[:-1]
        if known[-1] == PENDING_TOKEN:
            assert self.overlaps
            return (*known[:-1], self._sampled[item.sequence])
        return known

    def _write(self, item: ScheduledSequence, context: tuple[int, ...]) -> None:
        for position in range(item.start, item.start + item.num_tokens):
            self._slots[self._slot(item, position)] = (_adapter(item), context[: position + 1])

    def _pick(self, item: ScheduledSequence, context: tuple[int, ...]) -> int:
        for position in range(len(context)):
            found = self._slots[self._slot(item, position)]
            assert found == (_adapter(item), context[: position + 1]), "foreign keys in the table"
        return next_token(context, _adapter(item))

    def _sum(self, item: ScheduledSequence) -> RowSum:
        context = self._context(item)
        self._pick(item, context)  # checks the keys that the states would be made of
        last = range(len(context) - item.num_pooled + 1, len(context) + 1)
        return sum(
            (hidden_state(context[:length], _adapter(item)) for length in last),
            np.zeros(HIDDEN_SIZE),
        )

    def _slot(self, item: ScheduledSequence, position: int) -> int:
        block = item.block_table[position // self._block_size]
        return block * self._block_size + position % self._block_size


class FakeStep:
    def __init__(
        self,
        runner: FakeRunner,
        step: Step,
        picked: dict[Sequence, int],
        sums: tuple[RowSum, ...],
    ) -> None:
        self.step = step
        self._runner = runner
        self._picked = picked
        self._sums = sums

    def sample(self) -> "FakeSampledStep":
        # A device would need the sequences' earlier tokens for penalties and grammars.
        for item in self.step.sampling:
            if not item.sequence.is_finished:
                known = item.sequence.num_known
                assert known == item.start + item.num_tokens, "sampled before the last token came"
        self._runner.keep(self._picked)
        return FakeSampledStep(self.step, self._picked, self._sums, self._runner.broken)


@dataclass(frozen=True)
class FakeSampledStep:
    step: Step
    picked: dict[Sequence, int]
    sums: tuple[RowSum, ...]
    broken: frozenset[str]  # requests whose logits are no numbers

    def output(self) -> StepOutput:
        picked = tuple(self.picked.values())
        finite = tuple(each.id.request_id not in self.broken for each in self.picked)
        scores = tuple(
            None
            if item.sequence.id.request_id in self.broken
            else tuple(TokenLogprob(-float(token)) for token in item.scored_token_ids)
            for item in self.step.scoring
        )
        sums = tuple(
            None if item.sequence.id.request_id in self.broken else total
            for item, total in zip(self.step.pooling, self.sums, strict=True)
        )
        return StepOutput(picked, (None,) * len(picked), finite, scores, sums)


def _adapter(item: ScheduledSequence) -> str:
    slot = item.sequence.slot
    return "" if slot is None else slot.digest
