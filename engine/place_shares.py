"""Whose running sequence gives its place up for whose waiting one.

The fair queue decides who is next, but were every place taken by one tenant's long answers, whoever
is next would wait for one to end. So its counters (Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024, arXiv:2401.00588) also move places: from a tenant that was served more
to one that waits and was served less. A tenant keeps its share whatever it was served: the running
sequences divided by the tenants that run or wait, one at least. Nothing is kept free for who may
come, and a tenant that is alone has every place.

The sequence that gives its place is its tenant's youngest. It has been given some tokens since it
began to run, and more if parts of it had to be computed again, so what places move for is less than
what is gained.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Set

from lorax_serve.engine.sequence import Sequence

# Output tokens before a sequence that has begun to run gives its place: its adapter may have been
# copied for it.
_MIN_STAY = 4
# Tokens computed again for each output token that it stays.
_RECOMPUTED_PER_OUTPUT = 4


class PlaceShares:
    """Counts the running sequences of every tenant; `began` and `stopped` say how that changes."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()  # none of them zero
        self._share = 1

    def began(self, sequence: Sequence, num_recomputed: int) -> None:
        """The sequence runs, and so many of its tokens have to be computed a second time."""
        self._held[sequence.tenant] += 1
        num_owed = max(_MIN_STAY, num_recomputed // _RECOMPUTED_PER_OUTPUT)
        sequence.stays_until = len(sequence.output_token_ids) + num_owed

    def stopped(self, sequence: Sequence) -> None:
        self._held[sequence.tenant] -= 1
        if self._held[sequence.tenant] == 0:
            del self._held[sequence.tenant]

    def above_share(self, waiting: Set[str]) -> frozenset[str]:
        """Tenants that would give places to others, beside those that wait."""
        num_active = len(self._held.keys() | waiting)
        if num_active < 2:
            return frozenset()
        self._share = max(1, self._held.total() // num_active)
        return frozenset(tenant for tenant, held in self._held.items() if held > self._share)

    def givers(self, running: Iterable[Sequence]) -> list[Sequence]:
        """Of each tenant above its share, as `above_share` found it last, the youngest sequence
        that may go; first those of who holds most."""
        youngest: dict[str, Sequence] = {}
        for sequence in running:
            known = youngest.get(sequence.tenant)
            if (
                self._held[sequence.tenant] > self._share
                and len(sequence.output_token_ids) >= sequence.stays_until
                and (known is None or sequence.arrival > known.arrival)
            ):
                youngest[sequence.tenant] = sequence
        return sorted(youngest.values(), key=lambda each: -self._held[each.tenant])


def giver_for(
    claimant: str, givers: Iterable[Sequence], was_served_less: Callable[[str, str], bool]
) -> Sequence | None:
    """The first whose tenant was served more than the claimant."""
    return next((each for each in givers if was_served_less(claimant, each.tenant)), None)
