"""Adapters on their way from files to the host.

    queued → reading (a thread) → read, waiting for room → packing (a thread) → on the host
                    ↘ failed                                      ↘ failed

A load visits a thread twice, because only the loop may decide who leaves the host for it: first the
files are read and validated, which tells the size; then the adapter is packed straight into the
room that the loop has reserved. Everything else happens on the loop's one thread.

A read that hears nothing of its files for too long fails, and leaves its thread behind; while that
one still hangs, whatever else needs the same folder fails at once.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from queue import Empty, SimpleQueue

import structlog
import torch

from lorax_serve.engine.adapters.file_watch import FileWatch
from lorax_serve.engine.adapters.host_store import HostSlab, HostStore
from lorax_serve.engine.adapters.loader_threads import Job, LeftBehind, LoaderThreads
from lorax_serve.engine.adapters.loads import (
    FailedLoad,
    Load,
    Outcome,
    ReadAdapter,
    Reading,
    parts,
    prunes,
    unreadable,
)
from lorax_serve.engine.adapters.slab import fill_slab, plan_slab
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import RequestError
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode
from lorax_serve.kernels.lora import LoraSite

log = structlog.get_logger(__name__)

# Adapters in hand for each thread: one at work, and one that waits for room or, if it is needed
# soon, for the thread, which would else have nothing to do until the loop's next poll.
_STAGED_PER_THREAD = 2
_MAX_LAYOUTS = 64  # remembered, of adapters of different ranks
_SILENT_SECONDS = 30.0  # of a file system, until whoever waits for it is told


class AdapterLoader:
    """Works on at most `max_loading` loads at a time, in the order somebody else prefers."""

    def __init__(
        self,
        store: HostStore,
        sites: Sequence[LoraSite],
        read: Callable[[AnyAdapterRef, FileWatch], LoraWeights],
        *,
        is_on_device: Callable[[str], bool],
        transposed_a: bool,
        max_loading: int,
        on_loaded: Callable[[], None],
        pause: Callable[[], None],
        silent_seconds: float = _SILENT_SECONDS,
    ) -> None:
        """`read` is called on threads; it may raise RequestError. `is_on_device` takes a digest.
        Threads call `pause` before they work in Python.
        """
        self._store = store
        self._sites = tuple(sites)
        self._read = read
        self._is_on_device = is_on_device
        self._plan = lru_cache(_MAX_LAYOUTS)(
            lambda ranks, head: plan_slab(
                self._sites, dict(ranks), transposed_a=transposed_a, head=head
            )
        )
        self._max_loading = max_loading
        self._on_loaded = on_loaded
        self._pause = pause
        self._silent_seconds = silent_seconds
        # Loading must not take the forward pass's cores. A thread new to torch would inherit the
        # count that a loader sets for itself; asking for it settles this thread's own first.
        torch.get_num_threads()
        self._threads = LoaderThreads(max_loading, "adapter-loader")
        # Pruned merges take minutes where files take milliseconds: nobody else waits for one.
        self._pruning_thread = LoaderThreads(1, "adapter-pruner")
        self._left_behind = LeftBehind()
        self._finished: SimpleQueue[tuple[Job, AnyAdapterRef, Outcome]] = SimpleQueue()
        # A ref is in at most one of these five; on a thread, with whether anybody still wants it.
        self._hindered: dict[AnyAdapterRef, None] = {}  # by those left behind
        self._queued: dict[AnyAdapterRef, None] = {}  # in order of arrival
        self._reading: dict[AnyAdapterRef, Reading] = {}
        self._waiting: dict[AnyAdapterRef, ReadAdapter] = {}  # for room on the host
        self._packing: dict[AnyAdapterRef, tuple[HostSlab, bool]] = {}
        self._preferred: Sequence[AnyAdapterRef] = ()

    @property
    def num_loading(self) -> int:
        return len(self._queued) + self._num_in_hand

    @property
    def _num_in_hand(self) -> int:
        return len(self._reading) + len(self._waiting) + len(self._packing)

    def request(self, ref: AnyAdapterRef) -> None:
        """Load the adapter, unless that is under way."""
        if ref in self._reading:
            self._reading[ref].is_wanted = True
        elif ref in self._packing:
            self._packing[ref] = (self._packing[ref][0], True)
        elif any(part.path in self._left_behind for part in parts(ref)):
            self._hindered[ref] = None
            self._on_loaded()
        elif ref not in self._waiting and ref not in self._queued:
            self._queued[ref] = None
            self._start()

    def cancel(self, ref: AnyAdapterRef) -> None:
        """Nobody waits for the adapter any more. One that is being packed stays as a cached one."""
        self._hindered.pop(ref, None)
        self._queued.pop(ref, None)
        self._waiting.pop(ref, None)
        if ref in self._reading:
            self._reading[ref].is_wanted = False
        if ref in self._packing:
            self._packing[ref] = (self._packing[ref][0], False)

    def prefer(self, refs: Sequence[AnyAdapterRef]) -> bool:
        """Start with these, in this order, until the next call.

        False where they have to wait until something leaves the host.
        """
        self._preferred = refs
        is_full = bool(self._waiting)
        return not (is_full and any(ref in self._waiting or ref in self._queued for ref in refs))

    def poll(self) -> list[Load | FailedLoad]:
        """Take over what threads have finished, and give them more to do. Never blocks."""
        ended: list[Load | FailedLoad] = []
        while True:
            try:
                job, ref, outcome = self._finished.get_nowait()
            except Empty:
                break
            if self._left_behind.ended(job):
                continue
            if ref in self._packing:
                ended += self._take_packed(ref, outcome)
            elif not self._reading.pop(ref).is_wanted:
                continue
            elif isinstance(outcome, RequestError):
                ended.append(FailedLoad(ref, outcome))
            elif isinstance(outcome, ReadAdapter):
                self._waiting[ref] = outcome
        ended += self._give_up_silent()
        ended += self._pack_waiting()
        self._start()
        return ended

    def close(self) -> None:
        """Wait for the threads to end. The loader is of no use afterwards."""
        self._queued.clear()
        for threads in (self._threads, self._pruning_thread):
            threads.close()

    def _give_up_silent(self) -> list[FailedLoad]:
        """Fail whatever needs files of which nothing is heard."""
        silent = list(self._hindered)
        self._hindered.clear()
        for ref, read in tuple(self._reading.items()):
            folder = read.job.watch.silent_folder(self._silent_seconds)
            if folder is None:
                continue
            if read.is_wanted:
                log.warning("adapter_files_silent", revision=ref.revision[:12])
                silent.append(ref)
            read.is_wanted = False
            if self._left_behind.take(read.job, folder):
                del self._reading[ref]
        return [FailedLoad(ref, unreadable(ref)) for ref in silent]

    def _take_packed(self, ref: AnyAdapterRef, outcome: Outcome) -> list[Load | FailedLoad]:
        slab, is_wanted = self._packing.pop(ref)
        if not isinstance(outcome, float):
            assert isinstance(outcome, RequestError), "packing reads nothing"
            self._store.discard(slab)
            return [FailedLoad(ref, outcome)] if is_wanted else []
        self._store.publish(slab)
        if not is_wanted:
            self._store.unpin(slab)
            return []
        return [Load(ref, slab.digest, slab, outcome, is_new=True)]

    def _pack_waiting(self) -> list[Load | FailedLoad]:
        """Reserve room for what has been read, and pack it there, unless equal bytes are here."""
        ended: list[Load | FailedLoad] = []
        for ref, adapter in tuple(self._waiting.items()):
            digest = adapter.weights.digest
            if self._store.is_filling(digest):
                continue  # under another name
            slab = self._store.find(digest)
            if slab is not None:
                self._store.pin(slab)
            if slab is not None or self._is_on_device(digest):
                del self._waiting[ref]
                ended.append(Load(ref, digest, slab, adapter.seconds, is_new=False))
                continue
            slab = self._store.reserve(digest, adapter.layout, read_seconds=adapter.seconds)
            if slab is None:
                break  # smaller ones that pass would take its room again and again
            del self._waiting[ref]
            self._packing[ref] = (slab, True)
            self._threads.submit(partial(self._pack, ref, adapter, slab))
        return ended

    def _start(self) -> None:
        """Hand queued adapters to threads, as many as may be read at a time; and one pruned merge
        beside them.
        """
        while (ref := self._next()) is not None:
            del self._queued[ref]
            threads = self._pruning_thread if prunes(ref) else self._threads
            self._reading[ref] = Reading(threads.submit(partial(self._read_and_lay_out, ref)))

    def _next(self) -> AnyAdapterRef | None:
        """The adapter that may start now and is wanted first."""
        num_pruning = sum(map(prunes, self._reading))
        num_others = self._num_in_hand - num_pruning
        if num_others >= _STAGED_PER_THREAD * self._max_loading:
            return None
        num_at_work = len(self._reading) + len(self._packing) - num_pruning

        def may_start(ref: AnyAdapterRef, *, is_next: bool = False) -> bool:
            has_thread = is_next or num_at_work < self._max_loading
            return ref in self._queued and (num_pruning == 0 if prunes(ref) else has_thread)

        preferred = next((r for r in self._preferred if may_start(r, is_next=True)), None)
        # What is far back in the queue must not fill the host before those ahead of it have left.
        if preferred is not None or self._store.pinned_bytes > self._store.capacity_bytes // 2:
            return preferred
        return next(filter(may_start, self._queued), None)

    # -- on a loader thread

    def _read_and_lay_out(self, ref: AnyAdapterRef, job: Job) -> None:
        def work() -> ReadAdapter:
            started = time.monotonic()
            weights = self._read(ref, job.watch)
            ranks = tuple((module, each.rank) for module, each in weights.matrices.items())
            layout = self._plan(ranks, weights.head_shape)
            return ReadAdapter(weights, layout, time.monotonic() - started)

        self._finish(job, ref, work)

    def _pack(self, ref: AnyAdapterRef, adapter: ReadAdapter, slab: HostSlab, job: Job) -> None:
        def work() -> float:
            started = time.monotonic()
            fill_slab(slab.packed.slab, adapter.weights, adapter.layout, self._pause)
            self._pause()
            # By its digest: a private adapter's name is nobody else's business.
            log.info("adapter_loaded", digest=slab.digest[:12], num_bytes=slab.packed.num_bytes)
            return adapter.seconds + time.monotonic() - started

        self._finish(job, ref, work)

    def _finish(
        self, job: Job, ref: AnyAdapterRef, work: Callable[[], ReadAdapter | float]
    ) -> None:
        try:
            outcome: Outcome = work()
        except RequestError as error:
            outcome = _without_frames(error)
        except Exception:
            log.exception("adapter_load_failed", revision=ref.revision[:12])
            outcome = RequestError(
                ErrorCode.GENERATION_ERROR, f"Adapter {ref.name!r} could not be loaded."
            )
        self._finished.put((job, ref, outcome))
        self._on_loaded()


def _without_frames(error: RequestError) -> RequestError:
    """The error without its traceback, which would keep the whole adapter in memory."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)
