"""Fault 22, over a hub on real sockets: it is down, silent or not asked; the adapter is here."""

import asyncio
from pathlib import Path

from hub_site import ALICE, BOB, Site, bytes_of, make_site, unreachable
from hub_stand_in import WEIGHTS, Fault
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from lorax_serve.server.verdicts import TRUE_SECONDS, Verdicts
from set_clock import Clock
from waiting import PATIENCE_SECONDS


async def test_fault_22_a_public_adapter_outlives_its_hub(site: Site, tmp_path: Path) -> None:
    (await site.get("org/open")).release()
    (await site.get("org/closed", ALICE)).release()
    site.clock.now += TRUE_SECONDS
    with unreachable(site.hub):
        assert bytes_of(await site.get("org/open")) == WEIGHTS
        assert bytes_of(await site.get("org/open", BOB)) == WEIGHTS
        assert (await site.refusal("org/closed", ALICE)).code is ErrorCode.ADAPTER_UNAVAILABLE
        assert (await site.refusal("org/absent")).code is ErrorCode.ADAPTER_UNAVAILABLE
    await site.adapters.close()
    again = make_site(site.hub, tmp_path / "store")
    with unreachable(site.hub):  # after a restart as well
        assert bytes_of(await again.get("org/open")) == WEIGHTS
        assert (await again.refusal("org/closed", ALICE)).code is ErrorCode.ADAPTER_UNAVAILABLE
    site.adapters = again.adapters


async def test_fault_22_a_day_after_its_hubs_last_word_it_is_not_served(
    site: Site, tmp_path: Path
) -> None:
    """And what was served meanwhile, without a word of the hub, makes the day no longer."""
    (await site.get("org/open")).release()
    with unreachable(site.hub, 3000):
        for _ in range(22):
            site.clock.now += 3600
            assert bytes_of(await site.get("org/open")) == WEIGHTS
        site.clock.now += 2 * 3600 + TRUE_SECONDS
        for token in (None, BOB):
            assert (await site.refusal("org/open", token)).code is ErrorCode.ADAPTER_UNAVAILABLE
    assert bytes_of(await site.get("org/open")) == WEIGHTS
    site.clock.now += 3600
    with unreachable(site.hub):
        assert bytes_of(await site.get("org/open")) == WEIGHTS, "a new day has begun"
    assert site.hub.num_weight_requests == 1


async def test_fault_22_the_hubs_word_is_renewed_by_asking(site: Site) -> None:
    (await site.get("org/open")).release()
    for _ in range(30):
        site.clock.now += 3600
        (await site.get("org/open")).release()
    site.clock.now += TRUE_SECONDS
    with unreachable(site.hub):
        assert bytes_of(await site.get("org/open")) == WEIGHTS


async def test_fault_22_whom_the_hub_refused_is_not_served_without_it(site: Site) -> None:
    """It went private, and this caller was told so; nobody else was."""
    (await site.get("org/open")).release()
    site.hub.repositories["org/open"].tokens = {ALICE}
    site.clock.now += TRUE_SECONDS
    assert (await site.refusal("org/open", BOB)).code is ErrorCode.MODEL_NOT_FOUND
    site.clock.now += TRUE_SECONDS
    with unreachable(site.hub):
        assert bytes_of(await site.get("org/open", "hf_of_carol")) == WEIGHTS, "not poisoned"
        assert (await site.refusal("org/open", BOB)).code is ErrorCode.ADAPTER_UNAVAILABLE
        assert not _is_listed(site, BOB)
    site.hub.repositories["org/open"].tokens = {BOB}
    site.clock.now += TRUE_SECONDS
    assert bytes_of(await site.get("org/open", BOB)) == WEIGHTS
    assert _is_listed(site, BOB)


def _is_listed(site: Site, token: str | None) -> bool:
    return "org/open" in dict(site.adapters.listed(token))


async def test_an_offline_server_asks_the_hub_nothing(site: Site, tmp_path: Path) -> None:
    """What is public and here is served however old; nothing else is, and the hub hears nothing."""
    (await site.get("org/open")).release()
    (await site.get("org/closed", ALICE)).release()
    await site.adapters.close()
    num_asked = len(site.hub.seen)
    later = Clock(site.clock.now + 1e7)
    store = AdapterStore(
        tmp_path / "store", Quota(max_bytes=2**30, free_share=0, free_bytes=0), later
    )
    hub = HubSource(site.hub.url, offline=True)
    site.adapters = RemoteAdapters({"hub": hub}, store, FetchLimits(), Verdicts(later))
    assert bytes_of(await site.get("org/open")) == WEIGHTS
    assert bytes_of(await site.get("org/open", BOB)) == WEIGHTS
    for name, token in (("org/closed", ALICE), ("org/absent", None)):
        refused = await site.refusal(name, token)
        assert refused.code is ErrorCode.ADAPTER_UNAVAILABLE and "asks its source" in str(refused)
    assert len(site.hub.seen) == num_asked


async def test_fault_22_a_silent_hub_is_not_waited_for(site: Site, tmp_path: Path) -> None:
    hasty = make_site(site.hub, tmp_path / "hasty", patience=0.05, stall_seconds=600)
    (await hasty.get("org/open")).release()
    hasty.clock.now += TRUE_SECONDS
    site.hub.faults = [Fault("stall", on_info=True) for _ in range(9)]
    async with asyncio.timeout(PATIENCE_SECONDS):  # a try of the source's own takes far longer
        assert bytes_of(await hasty.get("org/open")) == WEIGHTS
        assert bytes_of(await hasty.get("org/open")) == WEIGHTS
    assert len(site.hub.faults) == 8
    await hasty.adapters.close()


async def test_fault_22_but_not_what_is_private_by_now(site: Site) -> None:
    (await site.get("org/open")).release()
    site.hub.repositories["org/open"].tokens = {ALICE}
    site.clock.now += TRUE_SECONDS
    await site.refusal("org/open")
    site.clock.now += TRUE_SECONDS
    with unreachable(site.hub):
        assert (await site.refusal("org/open")).code is ErrorCode.ADAPTER_UNAVAILABLE
