"""The sequences that run, and what they hold: KV blocks and pinned adapters.

A place is left in two ways. A sequence that stops gives everything back. One that is parked, for
another tenant's to run in its place, keeps its blocks and goes on later where it was. But where
blocks are short those of parked sequences are taken first, the youngest's before the others': what
was in them is computed again, mostly from the prefix cache.
"""

from bisect import insort

from lorax_serve.engine.adapter_source import AdapterSource
from lorax_serve.engine.place_shares import PlaceShares
from lorax_serve.engine.sequence import Sequence, SequenceStatus
from lorax_serve.engine.sequence_blocks import SequenceBlocks


class Places:
    """Moves sequences between RUNNING and WAITING; the queue in which they wait is not its own."""

    def __init__(
        self,
        blocks: SequenceBlocks,
        adapters: AdapterSource,
        *,
        max_num_sequences: int,
    ) -> None:
        self.running: list[Sequence] = []  # by arrival
        self.shares = PlaceShares()
        self._blocks = blocks
        self._adapters = adapters
        self._max_num_sequences = max_num_sequences
        self._parked: list[Sequence] = []  # by arrival, those that have blocks
        self._kept: dict[Sequence, str] = {}  # digests of adapters kept for those that went on hold

    @property
    def num_free(self) -> int:
        return self._max_num_sequences - len(self.running)

    def begin(
        self, sequence: Sequence, budget: int, giver: Sequence | None = None, giver_tokens: int = 0
    ) -> int:
        """Run a waiting sequence whose adapter is pinned, perhaps in the place of the giver, which
        is parked and leaves so many tokens of budget: adopt the cached prefix, get blocks for a
        first chunk. How many tokens that has; 0, and nothing has changed, when blocks are short.
        """
        is_new = not sequence.block_table
        if is_new:
            self._blocks.adopt_prefix(sequence)
        num_tokens = min(sequence.num_tokens - sequence.num_computed, budget + giver_tokens)
        num_total = sequence.num_computed + num_tokens
        if not self._fits(sequence, num_total, giver):
            if is_new:
                self._blocks.free(sequence)
            return 0
        if sequence in self._parked:
            self._parked.remove(sequence)
        if giver is not None:
            self._park(giver)
        has_grown = self.grow(sequence, num_total)
        assert has_grown, "a lone sequence fits: requests are bounded by the cache"
        insort(self.running, sequence, key=_arrival)
        sequence.status = SequenceStatus.RUNNING
        self._let_adapter_go(sequence)
        is_first = sequence.first_scheduled_time is None
        self.shares.began(sequence, 0 if is_first else sequence.num_tokens - sequence.num_computed)
        return num_tokens

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Cover `num_tokens` positions, if need be with blocks of parked sequences; False when even
        so blocks are short."""
        while not self._blocks.grow(sequence, num_tokens):
            if not self._parked:
                return False
            self._blocks.free(self._parked.pop())
        return True

    def stop(self, sequence: Sequence) -> None:
        """The running sequence ends, and gives everything back."""
        self._leave(sequence)
        self._blocks.free(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """The running sequence gives its place and its blocks back; it goes on later."""
        self._keep_adapter(sequence)
        self.stop(sequence)

    def give_back(self, sequence: Sequence) -> None:
        """A waiting sequence ends: nothing of it is kept."""
        self._let_adapter_go(sequence)
        if sequence in self._parked:
            self._parked.remove(sequence)
            self._blocks.free(sequence)

    def _park(self, sequence: Sequence) -> None:
        self._keep_adapter(sequence)
        self._leave(sequence)
        insort(self._parked, sequence, key=_arrival)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.shares.stopped(sequence)
        self.unpin_adapter(sequence)
        sequence.status = SequenceStatus.WAITING

    def unpin_adapter(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._adapters.release(sequence.slot)
            sequence.slot = None

    def _keep_adapter(self, sequence: Sequence) -> None:
        """Before the sequence leaves its place: it goes on with the bytes that it began with."""
        slot, ref = sequence.slot, sequence.adapter
        if slot is not None and ref is not None and ref.is_writable:
            self._kept[sequence] = slot.digest
            self._adapters.kept.keep(slot.digest)

    def _let_adapter_go(self, sequence: Sequence) -> None:
        if sequence in self._kept:
            self._adapters.kept.let_go(self._kept.pop(sequence))

    def _fits(self, sequence: Sequence, num_tokens: int, giver: Sequence | None) -> bool:
        """Whether so many positions can be covered, and one spare block is left for each other that
        runs, or the newcomer would preempt at once."""
        num_others = len(self.running) - (giver is not None)
        num_needed = self._blocks.num_missing(sequence, num_tokens) + num_others
        if num_others == 0 or num_needed <= self._blocks.allocator.num_free:
            return True
        others = [each for each in (*self._parked, giver) if each not in (None, sequence)]
        num_taken = sum(self._blocks.num_own(each) for each in others if each is not None)
        return num_needed <= self._blocks.allocator.num_free + num_taken


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
