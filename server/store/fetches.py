"""Downloads into the store: those under way, for operators to see, and the sums of all others."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FetchUnderWay:
    adapter_id: str  # as the request that began it asked for it
    source: str
    num_bytes: int  # that are here, those of an earlier try included
    total_bytes: int
    seconds: float  # since it began


@dataclass(slots=True)
class FetchCounts:
    """Of one source, since the server's start; of downloads that have ended, however they did."""

    num_fetches: int = 0
    num_bytes: int = 0  # that came, those to be fetched again included
    seconds: float = 0.0

    def add(self, num_bytes: int, seconds: float) -> None:
        self.num_fetches += 1
        self.num_bytes += num_bytes
        self.seconds += seconds
