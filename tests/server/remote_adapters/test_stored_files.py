"""Faults 18 and 19, over a hub on real sockets: what is stored stays, or is fetched again."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_site import OTHER, Site, bytes_of
from hub_stand_in import CONFIG, WEIGHTS
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.verdicts import TRUE_SECONDS


async def test_moving_revision(site: Site) -> None:
    repository = site.hub.repositories["org/open"]
    old = await site.get("org/open")
    first = repository.main
    repository.commits.append({"adapter_config.json": CONFIG, "adapter_model.safetensors": OTHER})
    same = await site.get("org/open")
    assert same.digest == old.digest, "within the time that an answer counts"
    site.clock.now += TRUE_SECONDS
    new = await site.get("org/open")
    assert new.digest != old.digest
    assert (bytes_of(old), bytes_of(new)) == (WEIGHTS, OTHER)
    pinned = await site.get(f"org/open@{first}")
    assert pinned.digest == old.digest
    assert site.hub.num_weight_requests == 2


async def test_fault_18_the_stores_copy_wins(site: Site) -> None:
    """Whatever becomes of the repository, what a request holds stays as it was."""
    lease = await site.get("org/open")
    del site.hub.repositories["org/open"]
    site.clock.now += TRUE_SECONDS
    assert (await site.refusal("org/open")).code is ErrorCode.MODEL_NOT_FOUND
    assert bytes_of(lease) == WEIGHTS


async def test_fault_19_an_entry_deleted_from_disk_is_fetched_again(site: Site) -> None:
    lease = await site.get("org/open")
    for path in lease.path.iterdir():
        path.unlink()
    lease.path.rmdir()
    lease.release()
    assert bytes_of(await site.get("org/open")) == WEIGHTS


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"<html>")])
async def test_fault_19_one_damaged_file_is_fetched_again_once(
    site: Site, damage: Callable[[Path], object]
) -> None:
    running = await site.get("org/open")
    damage(running.path / "adapter_model.safetensors")
    leases = await asyncio.gather(*(site.get("org/open") for _ in range(9)))
    assert {bytes_of(lease) for lease in leases} == {WEIGHTS}
    assert site.hub.num_weight_requests == 2
    assert running.path.is_dir(), "requests that run keep what they have"
    assert running.path not in {lease.path for lease in leases}


async def test_fault_19_what_is_gone_here_and_there_is_not_found(site: Site) -> None:
    lease = await site.get("org/open")
    (lease.path / "adapter_model.safetensors").unlink()
    del site.hub.repositories["org/open"]
    assert (await site.refusal("org/open")).code is ErrorCode.MODEL_NOT_FOUND
