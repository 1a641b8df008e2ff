"""Memory that adapters' files are read into, used again and again.

Giving tens of megabytes back to the kernel takes milliseconds, all of them with the interpreter's
lock held, and the step loop waits for it; getting them again costs zeroing every page.
"""

import ctypes
import mmap
import weakref
from collections import deque
from contextlib import suppress

_HUGE_PAGE_BYTES = 2 * 2**20


class ReadMemory:
    """Lends memory, and takes it back when nobody refers to it any more. Safe on any thread."""

    def __init__(self, max_idle: int) -> None:
        """At most `max_idle` pieces are kept for later."""
        self._idle: deque[mmap.mmap] = deque(maxlen=max_idle)

    def take(self, num_bytes: int) -> memoryview:
        """Writable memory of that size, with anything in it."""
        if num_bytes < _HUGE_PAGE_BYTES:
            return memoryview(bytearray(num_bytes))
        memory = self._find(num_bytes) or _map(num_bytes)
        # Every view of the memory keeps this window alive, so its end is theirs.
        window = (ctypes.c_char * num_bytes).from_buffer(memory)
        weakref.finalize(window, self._idle.append, memory).atexit = False
        return memoryview(window).cast("B")

    def _find(self, num_bytes: int) -> mmap.mmap | None:
        """One of those that lie idle, if it is large enough and not much too large."""
        for _ in range(len(self._idle)):
            with suppress(IndexError):  # another thread has taken it
                memory = self._idle.popleft()
                if num_bytes <= len(memory) <= 2 * num_bytes:
                    return memory
                self._idle.append(memory)
        return None


def _map(num_bytes: int) -> mmap.mmap:
    """In huge pages: filling it page by page, on several threads that all wait for the kernel's one
    list of pages, takes longer than reading.
    """
    memory = mmap.mmap(-1, -(-num_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
