"""Faults 21 and 24, over a hub on real sockets: one download for all who wait, with an end."""

import asyncio
from pathlib import Path

import pytest

from hub_site import ALICE, OTHER, Site, bytes_of, make_site
from hub_stand_in import WEIGHTS, Fault, adapter_repository
from lorax_serve.ipc.types import ErrorCode
from waiting import until


async def test_fault_24_a_hundred_requests_are_one_download(site: Site) -> None:
    leases = await asyncio.gather(*(site.get("org/open") for _ in range(100)))
    assert site.hub.num_weight_requests == 1
    assert len(site.hub.paths("/api/")) == 1
    assert len({lease.digest for lease in leases}) == 1
    assert bytes_of(leases[0]) == WEIGHTS
    entry = leases[0]._entry
    assert entry.num_leases == 100
    for lease in leases:
        lease.release()
        lease.release()
    assert entry.num_leases == 0


async def test_one_that_hangs_hinders_no_other(site: Site) -> None:
    site.hub.repositories["org/slow"] = adapter_repository(OTHER)
    site.hub.held.add("org/slow")
    slow = asyncio.create_task(site.get("org/slow"))
    await until(lambda: site.hub.num_weight_requests)
    assert bytes_of(await site.get("org/open")) == WEIGHTS
    assert not slow.done()
    site.hub.released.set()
    assert bytes_of(await slow) == OTHER


async def test_a_download_goes_on_while_anybody_waits_and_no_longer(
    site: Site, tmp_path: Path
) -> None:
    site.hub.held.add("org/open")
    first, second = (asyncio.create_task(site.get("org/open")) for _ in range(2))
    await until(lambda: site.hub.num_weight_requests)
    first.cancel()
    await asyncio.wait((first,))
    assert len(site.adapters._downloads._arriving) == 1
    second.cancel()
    await asyncio.wait((second,))
    third = asyncio.create_task(site.get("org/open"))  # while the old one is still cleaning up
    site.hub.released.set()
    assert bytes_of(await third) == WEIGHTS
    assert site.hub.seen[-1].range is not None, "it goes on where the old one was"
    assert len(site.adapters._downloads._arriving) == 0
    assert third.result()._entry.num_leases == 1


async def test_a_deadline_bounds_the_wait(site: Site, tmp_path: Path) -> None:
    hasty = make_site(site.hub, tmp_path / "hasty", deadline=0.1)
    site.hub.held.add("org/open")
    assert (await hasty.refusal("org/open")).code is ErrorCode.ADAPTER_UNAVAILABLE
    await hasty.adapters.close()


async def test_the_hubs_wish_for_time_is_passed_on(site: Site) -> None:
    site.hub.faults = [Fault(429, on_info=True, retry_after="77")]
    refused = await site.refusal("org/open")
    assert (refused.code, refused.retry_after) == (ErrorCode.ADAPTER_UNAVAILABLE, 77)


async def test_fault_21_a_wrong_digest_is_deleted_and_fetched_again(
    site: Site, tmp_path: Path
) -> None:
    site.hub.faults = [Fault("wrong_bytes")]
    assert (await site.refusal("org/open")).code is ErrorCode.ADAPTER_INTEGRITY
    assert not list(tmp_path.rglob("*.safetensors"))
    assert bytes_of(await site.get("org/open")) == WEIGHTS


async def test_who_leaves_while_the_name_is_written_holds_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await site.get("org/open")).release()
    writing = asyncio.Event()

    async def save() -> None:
        writing.set()
        await asyncio.Event().wait()  # a disk that never answers

    monkeypatch.setattr(site.store._names, "save", save)
    for name in ("org/open", "org/closed"):  # one that is here, one that is to be fetched
        writing.clear()
        asked = asyncio.create_task(site.get(name, ALICE))
        await writing.wait()
        asked.cancel()
        await asyncio.wait((asked,))
    await until(lambda: not any(each.num_leases for each in site.store._entries.values()))
    assert site.store.num_entries == 2
