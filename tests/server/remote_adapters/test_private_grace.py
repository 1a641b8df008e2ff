"""Fault 22 of private adapters: for a grace, who had a proof is served while the hub is down."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hub_site import ALICE, BOB, OTHER, Site, bytes_of, make_site, unreachable
from hub_stand_in import Fault
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.verdicts import FALSE_SECONDS, TRUE_SECONDS
from waiting import PATIENCE_SECONDS

GRACE = 600.0


@pytest_asyncio.fixture
async def graced(site: Site, tmp_path: Path) -> AsyncIterator[Site]:
    made = make_site(site.hub, tmp_path / "graced", private_grace=GRACE)
    (await made.get("org/closed", ALICE)).release()
    yield made
    await made.adapters.close()


async def test_fault_22_a_private_adapter_may_outlive_its_hub_for_whom_it_was_proven_to(
    graced: Site,
) -> None:
    with unreachable(graced.hub, 300):
        assert (await graced.refusal("org/closed", BOB)).code is ErrorCode.ADAPTER_UNAVAILABLE
        assert (await graced.refusal("org/closed")).code is ErrorCode.ADAPTER_UNAVAILABLE
        graced.clock.now += TRUE_SECONDS
        for _ in range(9):  # and what is served meanwhile makes it no longer
            assert bytes_of(await graced.get("org/closed", ALICE)) == OTHER
            for other in (BOB, None):
                refused = await graced.refusal("org/closed", other)
                assert refused.code is ErrorCode.ADAPTER_UNAVAILABLE
            graced.clock.now += TRUE_SECONDS
        graced.clock.now += TRUE_SECONDS / 2
        assert bytes_of(await graced.get("org/closed", ALICE)) == OTHER
        graced.clock.now += TRUE_SECONDS / 2
        assert (await graced.refusal("org/closed", ALICE)).code is ErrorCode.ADAPTER_UNAVAILABLE
    assert bytes_of(await graced.get("org/closed", ALICE)) == OTHER
    graced.clock.now += TRUE_SECONDS + GRACE / 2
    with unreachable(graced.hub):
        assert bytes_of(await graced.get("org/closed", ALICE)) == OTHER, "by a new proof"


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_fault_22_a_refusal_ends_the_grace(graced: Site, status: int) -> None:
    graced.clock.now += TRUE_SECONDS
    with unreachable(graced.hub):
        assert bytes_of(await graced.get("org/closed", ALICE)) == OTHER
    graced.hub.faults = [Fault(status, on_info=True)]
    graced.clock.now += TRUE_SECONDS
    assert (await graced.refusal("org/closed", ALICE)).code is ErrorCode.MODEL_NOT_FOUND
    graced.clock.now += FALSE_SECONDS
    with unreachable(graced.hub):
        assert (await graced.refusal("org/closed", ALICE)).code is ErrorCode.ADAPTER_UNAVAILABLE


async def test_fault_22_a_silent_hub_is_not_waited_for_within_the_grace(
    site: Site, tmp_path: Path
) -> None:
    limits = {"patience": 0.05, "private_grace": GRACE}
    hasty = make_site(site.hub, tmp_path / "hasty", stall_seconds=600, **limits)
    (await hasty.get("org/closed", ALICE)).release()
    hasty.clock.now += TRUE_SECONDS
    site.hub.faults = [Fault("stall", on_info=True) for _ in range(9)]
    async with asyncio.timeout(PATIENCE_SECONDS):  # a try of the source's own takes far longer
        assert bytes_of(await hasty.get("org/closed", ALICE)) == OTHER
        assert bytes_of(await hasty.get("org/closed", ALICE)) == OTHER
    assert len(site.hub.faults) == 8
    await hasty.adapters.close()
