"""The adapter that a request asks for, or several to be merged: found, counted and held."""

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from lorax_serve.ipc.types import AdapterRef, AnyAdapterRef, ErrorCode, MergedAdapters
from lorax_serve.server.adapter_records import AdapterRecord
from lorax_serve.server.adapter_resolver import LOCAL, ResolvedAdapter, engine_refused
from lorax_serve.server.errors import ServeError, adapter_not_found
from lorax_serve.server.places import Place
from lorax_serve.server.request import AdapterRequest, Merge
from lorax_serve.server.service import Service


@dataclass(frozen=True)
class AskedAdapter:
    ref: AnyAdapterRef | None  # None: the base model
    source: str | None
    adapters: tuple[ResolvedAdapter, ...]  # one, or a merge's parts
    records: tuple[AdapterRecord, ...]  # of these

    @property
    def opened_by_token(self) -> bool:
        """Whether the request's own token was the proof for any of them."""
        return any(adapter.opened_by_token for adapter in self.adapters)


_BASE = AskedAdapter(None, None, (), ())


@asynccontextmanager
async def held_adapter(
    service: Service, asked: AdapterRequest, place: Place
) -> AsyncIterator[AskedAdapter]:
    """May take as long as a download, and has no place meanwhile; the files stay for as long as the
    context is open.

    Raises ServeError.
    """
    merge = asked.merge
    ids = (asked.adapter_id,) if merge is None else merge.adapter_ids
    are_base = [not each or service.is_base(each) for each in ids]
    if merge is None and are_base[0]:
        yield _BASE
        return
    if any(are_base):
        raise ServeError(
            ErrorCode.INVALID_REQUEST,
            "`merged_adapters` names the base model, which is no adapter.",
            param="merged_adapters",
        )
    with ExitStack() as held:
        adapters = [
            held.enter_context(await resolved_adapter(service, each, asked, place)) for each in ids
        ]
        refs = [adapter.ref for adapter in adapters]
        ref = refs[0] if merge is None else _merged(merge, refs)
        used = _used(service, adapters, held)
        yield AskedAdapter(ref, adapters[0].source, tuple(adapters), used)


async def renewed(
    service: Service, asked: AdapterRequest, adapters: Sequence[ResolvedAdapter]
) -> AnyAdapterRef:
    """What the request names, once more: folders of this machine as they are now, all else as it
    was found. Raises ServeError.
    """
    refs = [each.ref if each.lease else await _folder(service, each, asked) for each in adapters]
    return refs[0] if asked.merge is None else _merged(asked.merge, refs)


async def _folder(service: Service, adapter: ResolvedAdapter, asked: AdapterRequest) -> AdapterRef:
    with await service.resolver.resolve(adapter.ref.name, asked.adapter_source, None) as found:
        return found.ref


async def resolved_adapter(
    service: Service, adapter_id: str, asked: AdapterRequest, place: Place
) -> ResolvedAdapter:
    """The adapter of that name, held until the result ends; a failure is noted. `place` is left for
    as long as its source is waited for.

    Raises ServeError.
    """
    resolver, source = service.resolver, asked.adapter_source
    try:
        return await resolver.resolve(adapter_id, source, asked.adapter_token, place=place)
    except ServeError as error:
        meant = resolver.target(adapter_id, source)
        service.desk.records.unresolved(meant.source, adapter_id, error.code)
        if meant.source == LOCAL and error.code is ErrorCode.MODEL_NOT_FOUND:
            raise adapter_not_found(
                adapter_id, await service.desk.hints.closest(adapter_id)
            ) from None
        raise


def note_failure(
    service: Service,
    adapters: Sequence[ResolvedAdapter],
    records: Sequence[AdapterRecord],
    code: ErrorCode,
) -> None:
    """The engine has failed a request for these."""
    service.desk.records.failed(records, code)
    engine_refused(adapters, code)


def _merged(merge: Merge, parts: Sequence[AdapterRef]) -> MergedAdapters:
    return MergedAdapters(
        parts=tuple(parts),
        weights=merge.weights,
        strategy=merge.strategy,
        density=merge.density,
        majority_sign_method=merge.majority_sign_method,
    )


def _used(
    service: Service, adapters: Sequence[ResolvedAdapter], held: ExitStack
) -> tuple[AdapterRecord, ...]:
    """Count the request for each, until `held` ends; once, however often a merge has it."""
    by_name = {(adapter.source, adapter.ref.name): adapter for adapter in adapters}
    records = service.desk.records
    return tuple(held.enter_context(records.use(each)) for each in by_name.values())
