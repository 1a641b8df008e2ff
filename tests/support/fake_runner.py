"""A runner without a model: it checks the KV bookkeeping and picks tokens by a hash.

Its cache remembers, for each slot, which token of which context was written there. A step whose
block tables do not lead to exactly the sequence's own context fails loudly.
"""

import hashlib

from lorax_serve.engine.step import ScheduledSequence, Step, StepOutput

VOCAB_SIZE = 97


def next_token(token_ids: tuple[int, ...], adapter: str) -> int:
    """What the fake model says after a context: any function of context and adapter will do."""
    digest = hashlib.sha256(repr((token_ids, adapter)).encode()).digest()
    return int.from_bytes(digest[:4], "big") % VOCAB_SIZE


class FakeRunner:
    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self._slots: list[tuple[str, tuple[int, ...]] | None] = [None] * (num_blocks * block_size)
        self.steps: list[Step] = []

    def run(self, step: Step) -> StepOutput:
        self.steps.append(step)
        for item in step.scheduled:
            self._write(item)
        picked = tuple(self._pick(item) for item in step.sampling)
        return StepOutput(picked, (None,) * len(picked), (True,) * len(picked))

    def _write(self, item: ScheduledSequence) -> None:
        for offset, token in enumerate(item.token_ids):
            position = item.start + offset
            assert item.sequence.tokens(position, position + 1) == (token,)
            context = item.sequence.tokens(0, position + 1)
            self._slots[self._slot(item, position)] = (_adapter(item), context)

    def _pick(self, item: ScheduledSequence) -> int:
        end = item.start + item.num_tokens
        context = item.sequence.tokens(0, end)
        for position in range(end):
            found = self._slots[self._slot(item, position)]
            assert found == (_adapter(item), context[: position + 1]), "foreign keys in the table"
        return next_token(context, _adapter(item))

    def _slot(self, item: ScheduledSequence, position: int) -> int:
        block = item.block_table[position // self._block_size]
        return block * self._block_size + position % self._block_size


def _adapter(item: ScheduledSequence) -> str:
    slot = item.sequence.slot
    return "" if slot is None else slot.digest
