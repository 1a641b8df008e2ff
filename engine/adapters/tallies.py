"""What has happened to each adapter's content, of a bounded number of them."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from lorax_serve.engine.adapters.slab import SlabLayout

_MAX_REMEMBERED = 4096  # digests; a report of them all is 1.5 MB


@dataclass(slots=True)
class Tally:
    rank: int = 0  # the highest of its matrices
    num_loads: int = 0  # from files to the host
    load_seconds: float = 0.0
    num_device_evictions: int = 0
    num_host_evictions: int = 0


class AdapterTallies:
    """By digest; what nothing has happened to for longest is forgotten."""

    def __init__(self, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._tallies: OrderedDict[str, Tally] = OrderedDict()

    def __iter__(self) -> Iterator[tuple[str, Tally]]:
        return iter(self._tallies.items())

    def loaded(self, digest: str, layout: SlabLayout, seconds: float) -> None:
        tally = self._of(digest)
        tally.rank = max(layout.ranks)
        tally.num_loads += 1
        tally.load_seconds += seconds

    def left_device(self, digest: str) -> None:
        self._of(digest).num_device_evictions += 1

    def left_host(self, digest: str) -> None:
        self._of(digest).num_host_evictions += 1

    def _of(self, digest: str) -> Tally:
        tally = self._tallies.setdefault(digest, Tally())
        self._tallies.move_to_end(digest)
        if len(self._tallies) > self._max_remembered:
            self._tallies.popitem(last=False)
        return tally


@dataclass(slots=True)
class ExchangeCounts:
    """Since the start."""

    num_loads: int = 0  # from files to the host
    num_copies: int = 0  # from the host to the device
