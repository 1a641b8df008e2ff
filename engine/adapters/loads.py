"""What a load of an adapter is, at each of its stations (loader.py)."""

from dataclasses import dataclass

from lorax_serve.engine.adapters.host_store import HostSlab
from lorax_serve.engine.adapters.loader_threads import Job
from lorax_serve.engine.adapters.slab import SlabLayout
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import RequestError
from lorax_serve.ipc.types import AdapterRef, AnyAdapterRef, ErrorCode, MergedAdapters


@dataclass(eq=False, slots=True)
class Reading:
    """An adapter on a thread that reads it."""

    job: Job
    is_wanted: bool = True


@dataclass(frozen=True, slots=True)
class ReadAdapter:
    """Validated, laid out, and not packed yet."""

    weights: LoraWeights
    layout: SlabLayout
    seconds: float  # it took to read


@dataclass(frozen=True, slots=True)
class Load:
    """A load that has ended well. The slab is pinned, once; None: it is on the device already.

    `is_new`: the slab was packed for it; otherwise equal bytes were on the host.
    """

    ref: AnyAdapterRef
    digest: str
    slab: HostSlab | None
    seconds: float  # on threads
    is_new: bool


@dataclass(frozen=True, slots=True)
class FailedLoad:
    ref: AnyAdapterRef
    error: RequestError


# What a thread brings back; from packing the seconds that the whole load took.
Outcome = ReadAdapter | float | RequestError


def prunes(ref: AnyAdapterRef) -> bool:
    return isinstance(ref, MergedAdapters) and ref.strategy.prunes


def parts(ref: AnyAdapterRef) -> tuple[AdapterRef, ...]:
    return ref.parts if isinstance(ref, MergedAdapters) else (ref,)


def unreadable(ref: AnyAdapterRef) -> RequestError:
    return RequestError(
        ErrorCode.ADAPTER_UNAVAILABLE,
        f"The files of adapter {ref.name!r} could not be read in time.",
    )
