"""What an adapter is worth to a tier: how often it is used, times what it costs to bring back.

Greedy-Dual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-
Frequency Caching Policy", HP Labs 1998): a resident's priority is `clock + frequency * cost /
size`, set at each use, and the clock rises to the priority of what is evicted. So whatever is not
used any more is overtaken in time, however often it was used before. Unlike there, frequencies
outlive eviction: with few places most adapters are away most of the time.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lorax_serve.engine.adapters.slab_space import Extent

_MAX_REMEMBERED = 16384  # digests, a hundred bytes each
_USES_PER_HALVING = 16  # for each digest that may be remembered


class UseHistory:
    """How often each adapter was used of late, resident or not, of a bounded number of them."""

    def __init__(self, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._uses: dict[str, float] = {}  # by digest
        self._num_until_halving = _USES_PER_HALVING * max_remembered

    def record(self, digest: str) -> None:
        self._uses[digest] = self._uses.get(digest, 0.0) + 1.0
        self._num_until_halving -= 1
        if self._num_until_halving == 0 or len(self._uses) > self._max_remembered:
            self._halve()

    def frequency(self, digest: str) -> float:
        """At least 1: what nobody has used yet is here because somebody is about to."""
        return max(1.0, self._uses.get(digest, 0.0))

    def _halve(self) -> None:
        """Age all counts; those used once are forgotten, then the longest known ones."""
        halves = {digest: uses / 2 for digest, uses in self._uses.items() if uses >= 2}
        num_excess = max(0, len(halves) - self._max_remembered * 3 // 4)
        self._uses = dict(list(halves.items())[num_excess:])
        self._num_until_halving = _USES_PER_HALVING * self._max_remembered


@dataclass(eq=False, slots=True, kw_only=True)
class Resident:
    """A slab in a tier. Never evicted while pinned."""

    digest: str
    extent: Extent  # bytes of the tier's buffer
    reload_seconds: float  # to have it here again
    num_pins: int = 0
    priority: float = 0.0  # seconds per byte, on the tier's clock

    @property
    def num_bytes(self) -> int:
        return self.extent.size


class GreedyDual:
    """The priorities of one tier's residents."""

    def __init__(self, history: UseHistory) -> None:
        self._history = history
        self._clock = 0.0

    def touch(self, resident: Resident) -> None:
        """The resident arrives, or is used."""
        seconds = self._history.frequency(resident.digest) * resident.reload_seconds
        resident.priority = self._clock + seconds / resident.num_bytes

    def value(self, resident: Resident) -> float:
        """What evicting it loses, in seconds: its priority above the clock, on all its bytes."""
        return max(0.0, resident.priority - self._clock) * resident.num_bytes

    def evicted(self, residents: Iterable[Resident]) -> None:
        """Raise the clock by what a byte has cost.

        One victim raises it to that victim's priority. A window of several is priced as a whole: a
        valuable slab that lies among worthless ones must not age everything else at once.
        """
        victims = tuple(residents)
        num_bytes = sum(victim.num_bytes for victim in victims)
        if num_bytes:
            self._clock += sum(self.value(victim) for victim in victims) / num_bytes
