"""Who may use which adapter now, and which bytes its name means: asked of the source, remembered
for seconds.
"""

import asyncio
from typing import Final

import structlog

from lorax_serve.server.single_flight import SingleFlight
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteAdapter,
    Source,
    SourceOffline,
    SourceUnavailable,
)
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.verdicts import FALSE_SECONDS, TRUE_SECONDS, Fingerprint, Verdicts

log = structlog.get_logger(__name__)

STALE_SECONDS: Final = 24 * 3600.0


class Authority:
    """Never lets one caller's answer count for another, unless the adapter is anybody's."""

    def __init__(
        self,
        store: AdapterStore,
        verdicts: Verdicts,
        *,
        patience: float,
        stale_seconds: float = STALE_SECONDS,
        private_grace: float = 0.0,
    ) -> None:
        """`patience` is how many seconds a source may take to say what is known from before, and
        `stale_seconds` for how long that counts while it says nothing, by the store's clock;
        `private_grace` for how long, of what is not anybody's, a caller's own proof.
        """
        self._private_grace = private_grace
        self._patience = patience
        self._stale_seconds = stale_seconds
        self._store = store
        self._verdicts = verdicts
        self._asking: SingleFlight[tuple[str, str, Fingerprint], RemoteAdapter] = SingleFlight()

    def fingerprint(self, token: str | None) -> Fingerprint:
        return self._verdicts.fingerprint(token)

    async def resolve(self, source: Source, adapter_id: str, token: str | None) -> RemoteAdapter:
        """What the name means for this caller. Should its source be out of reach: for an adapter
        that is anybody's, what it meant when the source last answered, for a day at most and not
        for whom the source refused; for others, what the source last told this very caller, for
        the grace that the operator gives. Raises SourceError.
        """
        remembered = self.remembered(source.name, adapter_id, token)
        if remembered is not None:
            return remembered
        key = (source.name, adapter_id, self.fingerprint(token))
        async with self._asking.join(key, lambda: self._ask(source, adapter_id, token)) as said:
            return said

    def remembered(
        self, source_name: str, adapter_id: str, token: str | None
    ) -> RemoteAdapter | None:
        """What `resolve` says without asking anybody; None where it has to. Raises
        NotFoundOrForbidden.
        """
        verdict = self._verdicts.get(source_name, adapter_id, self.fingerprint(token))
        if verdict is None:
            return None
        if verdict.adapter is None:
            raise NotFoundOrForbidden("as it was moments ago")
        return verdict.adapter

    async def resolve_anew(
        self, source: Source, adapter_id: str, token: str | None
    ) -> RemoteAdapter:
        """What the source says now, whatever it said before. Raises SourceError."""
        caller = self.fingerprint(token)
        try:
            adapter = await source.resolve(adapter_id, token)
        except NotFoundOrForbidden:
            await self._refused(source, adapter_id, token)
            raise
        self._said(adapter_id, caller, adapter)
        return adapter

    def known(self, source_name: str, adapter_id: str, token: str | None) -> RemoteAdapter | None:
        """What this caller may use for certain, without asking: by a proof of the caller's own
        that still counts, or because it is anybody's and its bytes are here.
        """
        caller = self.fingerprint(token)
        verdict = self._verdicts.get(source_name, adapter_id, caller)
        if verdict is not None:
            return verdict.adapter
        return self._anybodys(source_name, adapter_id, caller, within=None)

    def outlasting(
        self, source: Source, adapter_id: str, token: str | None
    ) -> RemoteAdapter | None:
        """What this caller would be served if the source said nothing now."""
        return self._still_counts(source, adapter_id, self.fingerprint(token))

    def revoke(self, source: Source, adapter_id: str, token: str | None) -> None:
        """The source went back on its word: ask it again."""
        self._verdicts.drop(source.name, adapter_id, self.fingerprint(token))

    async def _ask(self, source: Source, adapter_id: str, token: str | None) -> RemoteAdapter:
        caller = self.fingerprint(token)
        known = self._still_counts(source, adapter_id, caller)
        try:
            async with asyncio.timeout(None if known is None else self._patience):
                adapter = await source.resolve(adapter_id, token)
        except NotFoundOrForbidden:
            await self._refused(source, adapter_id, token)
            raise
        except SourceOffline:
            known = self._anybodys(source.name, adapter_id, caller, within=None)
            if known is None:
                raise
            self._verdicts.put(source.name, adapter_id, caller, known, TRUE_SECONDS)
            return known
        except (SourceUnavailable, TimeoutError) as error:
            known = self._still_counts(source, adapter_id, caller)  # it may have ended meanwhile
            if known is None:
                raise
            log.warning(
                "adapter_source_unreachable",
                source=source.name,
                host=source.host,
                reason=str(error) or "silence",
            )
            self._go_on(source, adapter_id, caller, known)
            return known
        self._said(adapter_id, caller, adapter)
        return adapter

    def _still_counts(
        self, source: Source, adapter_id: str, caller: Fingerprint
    ) -> RemoteAdapter | None:
        """What may be served while the source says nothing."""
        own = self._verdicts.outlasting(source.name, adapter_id, caller, self._private_grace)
        return own or self._anybodys(source.name, adapter_id, caller, within=self._stale_seconds)

    def _go_on(
        self, source: Source, adapter_id: str, caller: Fingerprint, known: RemoteAdapter
    ) -> None:
        """Serve this caller what still counts, and leave the source alone for a while."""
        if known.public:
            self._verdicts.put(source.name, adapter_id, caller, known, TRUE_SECONDS)
        else:
            self._verdicts.prolong(
                source.name, adapter_id, caller, TRUE_SECONDS, grace_seconds=self._private_grace
            )

    def _anybodys(
        self, source_name: str, adapter_id: str, caller: Fingerprint, *, within: float | None
    ) -> RemoteAdapter | None:
        """What the store remembers of a public adapter, unless this caller was refused it since."""
        known = self._store.last_meaning(source_name, adapter_id, within=within)
        if known is None or not known.public:
            return None
        return None if self._verdicts.was_refused(source_name, adapter_id, caller) else known

    def _said(self, adapter_id: str, caller: Fingerprint, adapter: RemoteAdapter) -> None:
        self._verdicts.put(adapter.source, adapter_id, caller, adapter, TRUE_SECONDS)
        self._store.confirm(adapter_id, adapter)

    async def _refused(self, source: Source, adapter_id: str, token: str | None) -> None:
        """The refusal takes the place of what held for this caller, and is nobody else's; what is
        anybody's ends when it is refused to who brings no token.
        """
        caller = self.fingerprint(token)
        self._verdicts.put(source.name, adapter_id, caller, None, FALSE_SECONDS)
        known = self._store.last_meaning(source.name, adapter_id)
        if token is None and known is not None and known.public:  # it is not public any more
            await self._store.forget(source.name, adapter_id)
