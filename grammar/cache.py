"""A least-recently-used cache bounded in bytes: a count of unequal things bounds nothing."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ByteBoundedCache(Generic[Key, Value]):
    """Each value is put in with its size in bytes; their sum never exceeds `capacity_bytes`."""

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise ValueError(f"expected capacity_bytes >= 0, got {capacity_bytes}")
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value, num_bytes: int) -> None:
        """Evicts the least recently used until it fits; a value over the capacity is not kept."""
        self._remove(key)
        if num_bytes > self._capacity_bytes:
            return
        while self._used_bytes + num_bytes > self._capacity_bytes:
            self._remove(next(iter(self._entries)))
        self._entries[key] = (value, num_bytes)
        self._used_bytes += num_bytes

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used_bytes -= entry[1]
