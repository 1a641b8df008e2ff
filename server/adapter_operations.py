"""What operators do to adapters while the server runs: names, pins, a look at newer revisions.

Everything goes through the same resolver as requests, under the same rules; an operator's key opens
these operations and no adapter.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

import msgspec

from lorax_serve.ipc.messages import AdapterAction
from lorax_serve.ipc.types import AdapterRef, ErrorCode
from lorax_serve.server.adapter_aliases import Target
from lorax_serve.server.adapter_records import AdapterRecords
from lorax_serve.server.adapter_resolver import (
    LOCAL,
    AdapterResolver,
    ResolvedAdapter,
    engine_refused,
)
from lorax_serve.server.engine import Engine
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.local import LocalAdapters

LOAD_SECONDS: Final = 120.0  # for the engine, once the files are here

# Schemes that name a source; what follows is the id, but for s3, whose ids are whole URLs.
_SCHEMES: Final = (("hf://", "hub", ""), ("s3://", "s3", "s3://"))


@dataclass(frozen=True, slots=True)
class Changed:
    """An adapter as it is now."""

    adapter: AdapterRef
    source: str
    before: str | None  # its revision, as far as it was known

    @property
    def has_changed(self) -> bool | None:
        return None if self.before is None else self.before != self.adapter.revision


class AdapterOperations:
    def __init__(
        self,
        engine: Engine,
        resolver: AdapterResolver,
        local: LocalAdapters,
        records: AdapterRecords,
        *,
        base_names: frozenset[str],
    ) -> None:
        """`base_names` are those of the served model."""
        self._engine = engine
        self._resolver = resolver
        self._local = local
        self._records = records
        self._base_names = base_names
        self._pins: dict[Target, ResolvedAdapter] = {}  # each has its files held
        self._busy: set[str] = set()  # names that somebody is changing

    # -- names

    async def load(
        self,
        name: str,
        path: str,
        *,
        source: str | None,
        token: str | None,
        pin: bool,
        replaces: bool,
    ) -> None:
        """Give the adapter another name, once the engine has read it and found it usable.

        `replaces`: the name may be one that has been loaded before. Raises ServeError.
        """
        self._resolver.aliases.check_new(name)
        target = self._meant_by(path, source)
        with self._changing(name):
            await self._check_free(name, replaces=replaces)
            old = self._resolver.aliases.get(name)
            found = await self._found(target, token)
            ref = msgspec.structs.replace(found.ref, name=name)
            with replace(found, ref=ref, named_by_operator=True) as adapter:
                if pin:
                    await self._pin(Target(adapter.source, name), adapter)
                else:
                    await self._command(AdapterAction.LOAD, adapter)
                self._resolver.aliases.put(name, target)
                if old is not None and (not pin or old.source != target.source):
                    await self._unpin(Target(old.source, name))
                if old is not None and old != target:
                    self._records.forget(old.source, name)
                self._records.note(adapter)

    async def unload(self, name: str) -> None:
        """Take the name back; requests that run under it finish. Raises ServeError."""
        with self._changing(name):
            target = self._resolver.aliases.get(name)
            if target is None:
                raise _not_loaded(name)
            self._resolver.aliases.remove(name)
            self._records.forget(target.source, name)
            await self._unpin(Target(target.source, name))

    # -- adapters under any name

    async def preload(self, name: str, source: str | None, *, pin: bool) -> None:
        """As `load`, under the name it has. Raises ServeError."""
        target = self._meant_by(name, source)
        with await self._found(target, None) as adapter:
            if pin:
                await self._pin(target, adapter)
            else:
                await self._command(AdapterAction.LOAD, adapter)
            self._records.note(adapter)

    async def pin(self, name: str, source: str | None, token: str | None) -> Changed:
        """Keep it on the device, in the revision it has now, until `unpin`. Raises ServeError."""
        with self._changing(name), await self._resolver.resolve(name, source, token) as adapter:
            before = self._last_revision(adapter)
            await self._pin(Target(adapter.source, name), adapter)
            self._records.note(adapter)
            return Changed(adapter.ref, adapter.source, before)

    async def unpin(self, name: str, source: str | None) -> tuple[str, bool]:
        """Its source, and whether it was pinned. Raises ServeError."""
        with self._changing(name):
            key = Target(self._resolver.target(name, source).source, name)
            return key.source, await self._unpin(key)

    async def refresh(self, name: str, source: str | None, token: str | None) -> Changed:
        """Ask its source which revision the name means now, and load that; of a pinned adapter the
        new one is pinned instead. Raises ServeError.
        """
        with self._changing(name):
            key = Target(self._resolver.target(name, source).source, name)
            with await self._resolver.resolve(name, source, token, anew=True) as adapter:
                before = self._last_revision(adapter)
                if key in self._pins:
                    await self._pin(key, adapter)
                else:
                    await self._command(AdapterAction.LOAD, adapter)
                self._records.note(adapter)
                return Changed(adapter.ref, adapter.source, before)

    def is_pinned(self, source: str, name: str) -> bool:
        return Target(source, name) in self._pins

    def pinned(self) -> Iterator[ResolvedAdapter]:
        return iter(self._pins.values())

    def _meant_by(self, path: str, source: str | None) -> Target:
        """The adapter that `lora_path` and `source` name."""
        if source is None:
            for scheme, of, kept in _SCHEMES:
                if path.startswith(scheme):
                    return Target(of, kept + path.removeprefix(scheme))
            if path.startswith("/"):
                return Target(LOCAL, self._local.short_name(str(PurePosixPath(path))) or path)
        return Target(self._resolver.default_source if source is None else source.lower(), path)

    async def _found(self, target: Target, token: str | None) -> ResolvedAdapter:
        """Raises ServeError, which tells an operator where folders are looked up."""
        try:
            return await self._resolver.resolve_as(target.adapter_id, target, token)
        except ServeError as error:
            if target.source == LOCAL and error.code is ErrorCode.MODEL_NOT_FOUND:
                rule = self._local.rule(target.adapter_id)
                raise ServeError(error.code, f"{error.message} {rule}", param=error.param) from None
            raise

    async def _check_free(self, name: str, *, replaces: bool) -> None:
        """Raises ServeError when the name is taken."""
        if name in self._base_names:
            raise _taken(name, "the base model's")
        if self._resolver.aliases.get(name) is not None:
            if not replaces:
                raise _taken(name, "loaded already; unload it first or set `load_inplace`")
            return
        try:
            await self._resolver.folders.resolve(name)
        except ServeError as error:
            if error.code is ErrorCode.MODEL_NOT_FOUND:
                return
            raise
        raise _taken(name, "a folder's in the adapter directory")

    def _last_revision(self, adapter: ResolvedAdapter) -> str | None:
        record = self._records.get(adapter.source, adapter.ref.name)
        return None if record is None else record.revision

    # -- pins

    async def _pin(self, key: Target, adapter: ResolvedAdapter) -> None:
        """Pin this revision instead of the one that is pinned, if one is. Raises ServeError."""
        before = self._pins.get(key)
        if before is not None and before.ref == adapter.ref:
            return
        try:
            await self._command(AdapterAction.PIN, adapter)
        except BaseException:  # the engine may have done it all the same
            with contextlib.suppress(ServeError):
                await self._engine.command(AdapterAction.UNPIN, adapter.ref)
            raise
        self._pins[key] = adapter.share()
        if before is not None:
            await self._let_go(before)

    async def _unpin(self, key: Target) -> bool:
        pin = self._pins.pop(key, None)
        if pin is None:
            return False
        await self._let_go(pin)
        return True

    async def _let_go(self, adapter: ResolvedAdapter) -> None:
        try:
            await self._command(AdapterAction.UNPIN, adapter)
        finally:
            adapter.release()

    async def _command(self, action: AdapterAction, adapter: ResolvedAdapter) -> None:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await self._engine.command(action, adapter.ref)
        except ServeError as error:
            engine_refused((adapter,), error.code)
            raise
        except TimeoutError:
            raise ServeError(
                ErrorCode.ADAPTER_UNAVAILABLE, "The engine had no room for the adapter in time."
            ) from None

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """One at a time for each name. Raises ServeError."""
        if name in self._busy:
            raise ServeError(
                ErrorCode.INVALID_REQUEST, "Another request is changing this adapter right now."
            )
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.remove(name)


def _taken(name: str, by: str) -> ServeError:
    return ServeError(ErrorCode.INVALID_REQUEST, f"The name {name!r} is {by}.", param="lora_name")


def _not_loaded(name: str) -> ServeError:
    shown = name[:128]
    return ServeError(
        ErrorCode.MODEL_NOT_FOUND, f"No adapter is loaded as {shown!r}.", param="lora_name"
    )
