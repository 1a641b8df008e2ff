"""What the scheduler needs of the adapter exchange."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.ipc.types import AnyAdapterRef


class KeptBytes(Protocol):
    """See engine/adapters/kept_adapters.py."""

    def keep(self, digest: str) -> None: ...
    def let_go(self, digest: str) -> None: ...


class AdapterSource(Protocol):
    """See engine/adapters/exchange.py."""

    @property
    def kept(self) -> KeptBytes:
        """Of sequences that wait in the middle of their answers."""

    @property
    def num_changes(self) -> int:
        """While it stays the same, whoever `acquire` had nothing for would get nothing again."""

    def is_settled(self, ref: AnyAdapterRef) -> bool:
        """Whether `acquire` may have a slot at once, or an error."""

    def prefetch(self, ref: AnyAdapterRef) -> None: ...
    def acquire(
        self, ref: AnyAdapterRef, *, tenant: str, even_arriving: bool
    ) -> AdapterSlot | None: ...
    def release(self, slot: AdapterSlot) -> None: ...
    def cancel(self, ref: AnyAdapterRef) -> None: ...
    def expect(self, refs: Iterable[AnyAdapterRef]) -> None: ...
    def stage(self, refs: Mapping[AnyAdapterRef, str]) -> None: ...
