"""How long adapters put up with others being acquired while there is no room for them."""

import math

from lorax_serve.ipc.types import AnyAdapterRef

# How many may acquire other adapters, before a place is reserved for one that found no room.
_MAX_PASSING = 16


class Patience:
    """Who has found no room, since when; and of which sizes it would be idle to ask again."""

    def __init__(self) -> None:
        self._num_acquired = 0
        # By how many had acquired adapters then, and what the adapter's content is.
        self._since: dict[AnyAdapterRef, tuple[int, str]] = {}
        # From so many bytes on there is no room, or no place to reserve, until something changes.
        self._no_room = math.inf
        self._no_place = math.inf

    def acquired(self) -> None:
        """Somebody has acquired an adapter."""
        self._num_acquired += 1

    def room_may_have_changed(self) -> None:
        self._no_room = self._no_place = math.inf

    def may_have_room(self, num_bytes: int) -> bool:
        return num_bytes < self._no_room

    def found_no_room(self, num_bytes: int) -> None:
        self._no_room = min(num_bytes, self._no_room)

    def may_have_place(self, num_bytes: int) -> bool:
        """Whether it is worth while to look for a place to reserve."""
        return num_bytes < self._no_place

    def found_no_place(self, num_bytes: int) -> None:
        self._no_place = min(num_bytes, self._no_place)

    def waits(self, ref: AnyAdapterRef) -> bool:
        return ref in self._since

    def is_out(self, ref: AnyAdapterRef, digest: str) -> bool:
        """The adapter finds no room: whether it has been passed often enough by now."""
        since, _ = self._since.setdefault(ref, (self._num_acquired, digest))
        return self._num_acquired - since >= _MAX_PASSING

    def forget(self, ref: AnyAdapterRef) -> str | None:
        """The adapter needs no room any more; its content's digest, if it waited for some."""
        _, digest = self._since.pop(ref, (0, None))
        return digest
