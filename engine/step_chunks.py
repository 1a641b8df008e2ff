"""How many tokens of each sequence a step computes.

Sequences that run go on first, those with one token to compute before those with prompts; then
waiting ones begin, as long as the budget lasts; what is left is given to prompts that got less than
they have.
"""

from collections.abc import Callable, Set

from lorax_serve.engine.places import Places
from lorax_serve.engine.sequence import Sequence, SequenceStatus
from lorax_serve.engine.step_budget import StepBudget


class StepChunks:
    """One step being planned."""

    def __init__(
        self, places: Places, max_batch_tokens: int, preempt: Callable[[Sequence], None]
    ) -> None:
        """`preempt` takes a running sequence's place and blocks."""
        self.num_tokens: dict[Sequence, int] = {}
        self.budget = StepBudget(max_batch_tokens)
        self._places = places
        self._preempt = preempt

    def go_on(self, waiting: Set[str]) -> None:
        """Tokens for the running sequences, the youngest of which are preempted when blocks are
        short. `waiting` are tenants whose sequences wait."""
        running = self._places.running.copy()
        prompts = [sequence for sequence in running if _num_missing(sequence) > 1]
        for sequence in running:
            if _num_missing(sequence) == 1 and self.budget.left and self._grow(sequence, 1):
                self.num_tokens[sequence] = 1
                self.budget.decode()
        self.budget.share(len(waiting | {sequence.tenant for sequence in prompts}))
        for sequence in prompts:
            num_tokens = min(_num_missing(sequence), self.budget.most(sequence.tenant))
            if num_tokens and self._grow(sequence, num_tokens):
                self._give(sequence, num_tokens)

    def begin(self, sequence: Sequence, giver: Sequence | None = None) -> bool:
        """Run a waiting sequence whose adapter is pinned, perhaps in the place of a running one,
        which is parked. False, and nothing has changed, when blocks or tokens are short."""
        num_given = 0 if giver is None else self.num_tokens[giver]
        budget = self.budget.most(sequence.tenant)
        if budget + num_given == 0:
            return False
        num_tokens = self._places.begin(sequence, budget, giver, num_given)
        if num_tokens == 0:
            return False
        if giver is not None:
            self.budget.give_back(giver.tenant, self.num_tokens.pop(giver))
        self._give(sequence, num_tokens)
        return True

    def give_the_rest(self) -> None:
        """What no tenant's part was needed for goes to the oldest prompts."""
        for sequence in self._places.running:
            num_given = self.num_tokens.get(sequence, 0)
            num_tokens = min(_num_missing(sequence) - num_given, self.budget.left)
            stop = sequence.num_computed + num_given + num_tokens
            if num_tokens > 0 and self._places.grow(sequence, stop):
                self._give(sequence, num_tokens)

    def _give(self, sequence: Sequence, num_tokens: int) -> None:
        self.num_tokens[sequence] = self.num_tokens.get(sequence, 0) + num_tokens
        self.budget.take(sequence.tenant, num_tokens)

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for so many more tokens, if need be the youngest sequences'; False when it was
        preempted itself."""
        while sequence.status is SequenceStatus.RUNNING:
            if self._places.grow(sequence, sequence.num_computed + num_tokens):
                return True
            victim = self._places.running[-1]
            self.budget.give_back(victim.tenant, self.num_tokens.pop(victim, 0))
            self._preempt(victim)
        return False


def _num_missing(sequence: Sequence) -> int:
    """Tokens whose keys and values are to be computed; none if those in flight are the last."""
    return 0 if sequence.ends_with_pending else sequence.num_tokens - sequence.num_computed
