"""Who gets which bytes: tenant isolation and faults 18 to 24, over a hub on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from hub_stand_in import (
    CONFIG,
    WEIGHTS,
    Fault,
    HubStandIn,
    Repository,
    adapter_repository,
    serving_hub,
)
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, UnservedSource
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.sources.source import RemoteAdapter
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.store.room import Quota
from lorax_serve.server.verdicts import FALSE_SECONDS, MAX_VERDICTS, TRUE_SECONDS, Verdicts

ALICE, BOB = "hf_of_alice", "hf_of_bob"
OTHER = WEIGHTS[::-1]
TWO_FILES = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    hub: HubStandIn
    adapters: RemoteAdapters
    store: AdapterStore
    clock: Clock
    verdicts: Verdicts

    async def get(self, adapter_id: str, token: str | None = None) -> Lease:
        _, lease = await self.adapters.lease("hub", adapter_id, token)
        return lease

    async def refusal(self, adapter_id: str, token: str | None = None) -> ServeError:
        with pytest.raises(ServeError) as caught:
            await self.get(adapter_id, token)
        return caught.value


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    hub = HubStandIn()
    hub.repositories["org/open"] = adapter_repository()
    hub.repositories["org/closed"] = adapter_repository(OTHER, tokens={ALICE})
    async with serving_hub(hub):
        made = make_site(hub, tmp_path / "store")
        yield made
        await made.adapters.close()


def make_site(hub: HubStandIn, folder: Path, **limits: object) -> Site:
    clock = Clock()
    verdicts = Verdicts(clock)
    store = AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0), clock)
    source = HubSource(hub.url, stall_seconds=0.3, retries=Retries(first_bound=0.001))
    bounds = FetchLimits(**limits)  # type: ignore[arg-type]
    return Site(
        hub, RemoteAdapters({"hub": source}, store, bounds, verdicts), store, clock, verdicts
    )


def bytes_of(lease: Lease) -> bytes:
    return (lease.path / "adapter_model.safetensors").read_bytes()


@contextmanager
def unreachable(hub: HubStandIn, num_requests: int = 30) -> Iterator[None]:
    hub.faults = [Fault(500, on_info=True) for _ in range(num_requests)]
    yield
    hub.faults = []


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


async def test_private_then_anonymous(site: Site) -> None:
    held = await site.get("org/closed", ALICE)
    assert bytes_of(held) == OTHER
    for token in (None, BOB):
        site.hub.seen.clear()
        refused = await site.refusal("org/closed", token)
        assert refused.code is ErrorCode.MODEL_NOT_FOUND
        assert len(site.hub.paths("/api/models/org/closed")) == 1, (
            "the hub was asked for this caller"
        )
        absent = await site.refusal("org/absent", token)
        assert refused.message.replace("closed", "absent") == absent.message
        assert (refused.status, refused.param) == (absent.status, absent.param)


async def test_every_caller_has_a_proof_of_its_own(site: Site) -> None:
    site.hub.repositories["org/closed"].tokens = {ALICE, BOB}
    await site.get("org/closed", ALICE)
    site.hub.seen.clear()
    await site.get("org/closed", ALICE)
    assert site.hub.seen == []
    await site.get("org/closed", BOB)
    assert {seen.authorization for seen in site.hub.seen} == {f"Bearer {BOB}"}
    assert site.hub.num_weight_requests == 0
    site.clock.now += TRUE_SECONDS
    await site.get("org/closed", ALICE)
    assert site.hub.seen[-1].authorization == f"Bearer {ALICE}"


async def test_bad_token_does_not_poison(site: Site) -> None:
    assert (await site.refusal("org/closed", BOB)).code is ErrorCode.MODEL_NOT_FOUND
    assert bytes_of(await site.get("org/closed", ALICE)) == OTHER


async def test_bad_tokens_in_the_same_moment_do_not_poison(site: Site) -> None:
    """Even where the download itself was begun with a token that then fails."""
    site.hub.repositories["org/closed"].tokens = {ALICE, BOB}
    await asyncio.gather(site.get("org/closed", ALICE), site.get("org/closed", BOB))
    changed = site.hub.repositories["org/closed"]
    changed.commits.append({"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS})
    site.clock.now += TRUE_SECONDS
    site.hub.held.add("org/closed")
    tokens = [BOB, BOB, ALICE, ALICE]
    asked = [asyncio.create_task(site.get("org/closed", token)) for token in tokens]
    while site.hub.num_weight_requests != 2:
        await asyncio.sleep(0.01)
    site.hub.revoked.add(BOB)  # what was begun with it stalls, and cannot be resumed
    site.hub.held.clear()
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(one, ServeError) for one in done] == [True, True, False, False], done
    assert {bytes_of(one) for one in done if isinstance(one, Lease)} == {WEIGHTS}


async def test_revocation(site: Site) -> None:
    running = await site.get("org/closed", ALICE)
    site.hub.repositories["org/closed"].tokens = set()
    (await site.get("org/closed", ALICE)).release()
    site.clock.now += TRUE_SECONDS
    assert (await site.refusal("org/closed", ALICE)).code is ErrorCode.MODEL_NOT_FOUND
    assert bytes_of(running) == OTHER


async def test_a_refusal_is_remembered_for_seconds(site: Site) -> None:
    await site.refusal("org/closed", BOB)
    site.hub.repositories["org/closed"].tokens = {BOB}
    site.hub.seen.clear()
    await site.refusal("org/closed", BOB)
    assert site.hub.seen == []
    site.clock.now += FALSE_SECONDS
    assert bytes_of(await site.get("org/closed", BOB)) == OTHER


async def test_same_bytes_two_repos(site: Site) -> None:
    site.hub.repositories["org/copy"] = adapter_repository(OTHER)
    public = await site.get("org/copy")
    private = await site.get("org/closed", ALICE)
    assert (public.digest, public.path) == (private.digest, private.path)
    assert site.store.num_entries == 1
    assert (await site.refusal("org/closed")).code is ErrorCode.MODEL_NOT_FOUND


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


@pytest.mark.parametrize("refused", [None, BOB])
async def test_a_refusal_ends_what_held_for_the_refused_and_nobody_else(
    site: Site, refused: str | None
) -> None:
    site.hub.repositories["org/closed"].tokens = {ALICE, BOB}
    await site.get("org/open", refused)
    for token in (ALICE, BOB):
        await site.get("org/closed", token)
    site.hub.repositories["org/open"].tokens = {ALICE}
    site.hub.repositories["org/closed"].tokens = {ALICE}
    for adapter_id in ("org/open", "org/closed"):
        with pytest.raises(ServeError):
            await site.adapters.lease("hub", adapter_id, refused, anew=True)
        assert (await site.refusal(adapter_id, refused)).code is ErrorCode.MODEL_NOT_FOUND
    site.hub.seen.clear()
    await site.get("org/closed", ALICE)
    if refused is not None:
        await site.get("org/open")
        await site.get("org/open", ALICE)
    assert site.hub.seen == [], "what others were told still counts"


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
    hasty = make_site(site.hub, tmp_path / "hasty", patience=0.05)
    (await hasty.get("org/open")).release()
    hasty.clock.now += TRUE_SECONDS
    site.hub.faults = [Fault("stall", on_info=True) for _ in range(9)]
    async with asyncio.timeout(0.25):  # a try of the source's own takes longer
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
    hasty = make_site(site.hub, tmp_path / "hasty", patience=0.05, private_grace=GRACE)
    (await hasty.get("org/closed", ALICE)).release()
    hasty.clock.now += TRUE_SECONDS
    site.hub.faults = [Fault("stall", on_info=True) for _ in range(9)]
    async with asyncio.timeout(0.25):  # a try of the source's own takes longer
        assert bytes_of(await hasty.get("org/closed", ALICE)) == OTHER
        assert bytes_of(await hasty.get("org/closed", ALICE)) == OTHER
    assert len(site.hub.faults) == 8
    await hasty.adapters.close()


async def test_one_that_hangs_hinders_no_other(site: Site) -> None:
    site.hub.repositories["org/slow"] = adapter_repository(OTHER)
    site.hub.held.add("org/slow")
    slow = asyncio.create_task(site.get("org/slow"))
    while not site.hub.num_weight_requests:
        await asyncio.sleep(0.01)
    assert bytes_of(await site.get("org/open")) == WEIGHTS
    assert not slow.done()
    site.hub.released.set()
    assert bytes_of(await slow) == OTHER


async def test_a_download_goes_on_while_anybody_waits_and_no_longer(
    site: Site, tmp_path: Path
) -> None:
    site.hub.held.add("org/open")
    first, second = (asyncio.create_task(site.get("org/open")) for _ in range(2))
    while not site.hub.num_weight_requests:
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.02)
    assert len(site.adapters._downloads._arriving) == 1
    second.cancel()
    await asyncio.wait((first, second))
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


async def test_too_large_is_known_before_the_first_byte(site: Site) -> None:
    site.hub.repositories["org/open"].announced_bytes = 50 * 2**30
    assert (await site.refusal("org/open")).code is ErrorCode.ADAPTER_TOO_LARGE
    assert len(site.hub.seen) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"adapter_config.json": CONFIG, "adapter_model.bin": b"pickle"},
        {"adapter_model.safetensors": WEIGHTS},
        {"README.md": b"hello"},
        {"adapter_config.json": CONFIG, "model_weights/adapter_model.safetensors": WEIGHTS},
        {"model_weights/adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS},
        {"other/adapter_config.json": CONFIG, "other/adapter_model.safetensors": WEIGHTS},
    ],
)
async def test_only_the_two_files_are_wanted_and_both(site: Site, files: dict[str, bytes]) -> None:
    site.hub.repositories["org/odd"] = Repository([files])
    refused = await site.refusal("org/odd")
    assert refused.code is ErrorCode.ADAPTER_INCOMPATIBLE
    assert "safetensors" in refused.message
    assert len(site.hub.seen) == 1


async def test_ludwigs_layout_is_stored_like_any_other(site: Site) -> None:
    """The same bytes are the same adapter; and where they lie is known over a restart."""
    nested = {f"model_weights/{name}": content for name, content in TWO_FILES.items()}
    site.hub.repositories["org/ludwig"] = Repository([nested])
    lease = await site.get("org/ludwig")
    assert bytes_of(lease) == WEIGHTS
    assert lease.digest == (await site.get("org/open")).digest
    meant = site.store.last_meaning("hub", "org/ludwig")
    assert meant is not None
    assert msgspec.json.decode(msgspec.json.encode(meant), type=RemoteAdapter) == meant
    assert meant.folder == "model_weights/"


SHARDS = {f"adapter_model-0000{n}-of-00002.safetensors": b"x" for n in (1, 2)}


@pytest.mark.parametrize("whole", [{}, {"adapter_model.safetensors": WEIGHTS}])
async def test_shards_are_refused_by_name_before_the_first_byte(
    site: Site, whole: dict[str, bytes]
) -> None:
    files = {"adapter_config.json": CONFIG, **SHARDS, **whole}
    site.hub.repositories["org/odd"] = Repository([files])
    refused = await site.refusal("org/odd")
    assert refused.code is ErrorCode.ADAPTER_INCOMPATIBLE
    assert "weights are in shards" in refused.message
    assert len(site.hub.seen) == 1


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
    async with asyncio.timeout(5):
        while any(entry.num_leases for entry in site.store._entries.values()):
            await asyncio.sleep(0.01)
    assert site.store.num_entries == 2


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


async def test_other_sources_are_named(site: Site) -> None:
    with pytest.raises(UnservedSource) as caught:
        await site.adapters.lease("ftp", "org/open", None)
    assert "`hub`" in caught.value.message


@pytest.mark.parametrize(
    ("served", "named"),
    [
        (("local",), "which serves `local`."),
        (("local", "hub"), "which serves `local` and `hub`."),
        (("local", "hub", "s3"), "which serves `local`, `hub` and `s3`."),
    ],
)
def test_served_sources_are_listed_as_people_do(served: tuple[str, ...], named: str) -> None:
    assert UnservedSource(served).message.endswith(named)


async def test_what_came_from_a_source_that_is_served_no_more_is_not_listed(site: Site) -> None:
    (await site.get("org/open")).release()
    assert dict(site.adapters.listed(None)).keys() == {"org/open"}
    without = RemoteAdapters({}, site.store, FetchLimits(), Verdicts(site.clock))
    assert dict(without.listed(None)) == {}


async def test_an_operator_is_told_whom_the_server_did_not_reach(site: Site) -> None:
    with unreachable(site.hub), capture_logs() as logs:
        refused = await site.refusal("org/open")
    assert "`hub`" in refused.message and "try again" in refused.message
    (line,) = (line for line in logs if line["event"] == "adapter_source_failed")
    assert (line["source"], line["host"]) == ("hub", site.hub.url.removeprefix("http://"))


async def test_unknown_names_do_not_pile_up(site: Site) -> None:
    verdicts = Verdicts(site.clock)
    nobody = verdicts.fingerprint(None)
    for number in range(MAX_VERDICTS + 100):
        verdicts.put("hub", f"org/{number}", nobody, None, 10)
    assert len(verdicts) == MAX_VERDICTS
    assert verdicts.get("hub", "org/0", nobody) is None
    assert verdicts.get("hub", f"org/{MAX_VERDICTS}", nobody) is not None


async def test_no_token_is_kept_or_told(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await site.get("org/closed", ALICE)
    refused = await site.refusal("org/closed", BOB)
    assert ALICE not in repr(vars(site.verdicts)) + repr(refused) + refused.message
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert ALICE.encode() not in path.read_bytes()
    assert site.verdicts.fingerprint(ALICE) != Verdicts().fingerprint(ALICE)


@pytest.mark.parametrize("token", [None, BOB])
async def test_timing_oracle_not_permitted_is_as_much_work_as_not_found(
    site: Site, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes time is compared, not the time: what the hub is asked, with which credential, and
    what the store is; for an adapter that others use, one that nobody does, and one that is none.
    """
    site.hub.repositories["org/unused"] = adapter_repository(OTHER, tokens={ALICE})
    await site.get("org/closed", ALICE)
    looked: list[str] = []
    for name in ("lease", "receive", "remember", "forget", "confirm"):
        watched = getattr(site.store, name)
        monkeypatch.setattr(
            site.store,
            name,
            lambda *args, _name=name, _watched=watched: looked.append(_name) or _watched(*args),
        )

    async def work(adapter_id: str) -> tuple[object, ...]:
        site.hub.seen.clear()
        looked.clear()
        with capture_logs() as logs:
            refused = await site.refusal(adapter_id, token)
        repository, _, _ = adapter_id.partition("@")
        said = (refused.code, refused.status, refused.message.replace(repository, "it"))
        asked = [replace(s, path=s.path.replace(repository, "it")) for s in site.hub.seen]
        return said, asked, list(looked), str(logs).replace(repository, "it")

    names = ("org/closed", "org/unused", "org/absent", "org/closed@main", "org/absent@main")
    for is_remembered in (False, True):
        done = {name: await work(name) for name in names}
        assert done["org/closed"] == done["org/unused"] == done["org/absent"]
        assert done["org/closed@main"] == done["org/absent@main"]
        assert [bool(asked) for _, asked, *_ in done.values()] == [not is_remembered] * len(names)
