"""Faults 20 and 21, over real sockets: a hub that refuses, fails, stalls, resets or lies."""

import socket
from pathlib import Path

import pytest

from hub_downloads import FAST, fetched
from hub_stand_in import WEIGHTS, Fault, HubStandIn
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import parse_retry_after
from lorax_serve.server.sources.source import NotFoundOrForbidden, SourceCorrupt, SourceUnavailable


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_fault_20_a_refusal_is_not_asked_again(
    hub: HubStandIn, source: HubSource, status: int
) -> None:
    hub.faults = [Fault(status, on_info=True)]
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve("org/open", None)
    assert len(hub.seen) == 1


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_fault_20_failures_of_the_hub_are_tried_three_times(
    hub: HubStandIn, source: HubSource, status: int
) -> None:
    hub.faults = [Fault(status, on_info=True), Fault(status, on_info=True)]
    assert (await source.resolve("org/open", None)).repository == "org/open"
    assert len(hub.seen) == 3
    hub.faults = [Fault(status, on_info=True) for _ in range(9)]
    with pytest.raises(SourceUnavailable):
        await source.resolve("org/open", None)
    assert len(hub.seen) == 6


async def test_fault_20_a_hub_that_wants_time_gets_it(hub: HubStandIn, source: HubSource) -> None:
    hub.faults = [Fault(429, on_info=True, retry_after="77")]
    with pytest.raises(SourceUnavailable) as caught:
        await source.resolve("org/open", None)
    assert caught.value.retry_after == 77
    assert len(hub.seen) == 1


async def test_fault_20_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as bound:  # nobody listens on it
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        for url in (address, "http://no-such-host.invalid", address.replace("http", "https")):
            source = HubSource(url, retries=FAST)
            with pytest.raises(SourceUnavailable):
                await source.resolve("org/open", None)
            await source.close()


async def test_fault_20_no_tls_where_tls_is_expected(hub: HubStandIn) -> None:
    source = HubSource(hub.url.replace("http", "https"), retries=FAST)
    with pytest.raises(SourceUnavailable):
        await source.resolve("org/open", None)
    await source.close()


@pytest.mark.parametrize("kind", ["stall_half", "reset_half"])
async def test_fault_21_an_interrupted_download_goes_on_where_it_was(
    hub: HubStandIn, source: HubSource, tmp_path: Path, kind: str
) -> None:
    adapter = await source.resolve("org/open", None)
    hub.faults = [Fault(kind)]  # type: ignore[arg-type]
    assert await fetched(source, adapter, tmp_path) == WEIGHTS
    first, second = (seen for seen in hub.seen if seen.on_network)
    assert first.range is None
    assert second.range == f"bytes={len(WEIGHTS) // 2}-"


@pytest.mark.parametrize("kind", ["stall_half", "reset_half"])
async def test_fault_21_but_only_once(
    hub: HubStandIn, source: HubSource, tmp_path: Path, kind: str
) -> None:
    adapter = await source.resolve("org/open", None)
    hub.faults = [Fault(kind) for _ in range(5)]  # type: ignore[arg-type]
    with pytest.raises(SourceUnavailable):
        await fetched(source, adapter, tmp_path)
    assert hub.num_weight_requests == 2
    hub.faults = []
    assert await fetched(source, adapter, tmp_path) == WEIGHTS
    assert hub.seen[-1].range == f"bytes={len(WEIGHTS) * 3 // 4}-"


async def test_fault_21_silence_instead_of_an_answer(hub: HubStandIn, source: HubSource) -> None:
    hub.faults = [Fault("stall", on_info=True) for _ in range(9)]
    with pytest.raises(SourceUnavailable):
        await source.resolve("org/open", None)


@pytest.mark.parametrize("kind", ["too_long", "too_short"])
async def test_fault_21_a_lie_about_the_length_is_found_before_the_first_byte(
    hub: HubStandIn, source: HubSource, tmp_path: Path, kind: str
) -> None:
    adapter = await source.resolve("org/open", None)
    hub.faults = [Fault(kind)]  # type: ignore[arg-type]
    with pytest.raises(SourceCorrupt):
        await fetched(source, adapter, tmp_path)
    assert not (tmp_path / "adapter_model.safetensors").exists()


async def test_what_is_complete_needs_no_request(
    hub: HubStandIn, source: HubSource, tmp_path: Path
) -> None:
    """And a server that does not know the range, or any range, is asked for all of it."""
    adapter = await source.resolve("org/open", None)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(WEIGHTS[:1000])
    hub.faults = [Fault(416)]
    assert await fetched(source, adapter, tmp_path) == WEIGHTS
    assert [s.range for s in hub.seen if s.on_network] == ["bytes=1000-", None]


def test_retry_after() -> None:
    assert parse_retry_after("12") == 12
    for value in (None, "", "-1", "soon", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT", "٣"):
        assert parse_retry_after(value) is None
