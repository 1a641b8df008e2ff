"""What the engine's tiers hold, as it reports on demand."""

from msgspec import Struct


class AdapterState(Struct, frozen=True, forbid_unknown_fields=True):
    """One content that is in a tier, or was of late. Counts are since the engine's start."""

    digest: str  # of the content; the engine's own, not the one of the store on the disk
    revisions: tuple[str, ...]  # of the AdapterRefs that were found to have this content
    rank: int  # the highest of its matrices; 0 where that is not remembered
    device_bytes: int  # 0: it is not there
    host_bytes: int  # 0: it is not there
    is_pinned: bool  # by an operator
    num_loads: int  # from files to the host
    load_seconds: float  # that those took, waits left out
    num_device_evictions: int
    num_host_evictions: int


class TierUse(Struct, frozen=True, forbid_unknown_fields=True):
    capacity_bytes: int
    used_bytes: int


class AdapterReport(Struct, frozen=True, forbid_unknown_fields=True):
    adapters: list[AdapterState]
    device: TierUse
    host: TierUse
