"""Who gets which bytes: what the hub says of one caller holds for no other, and for a while."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hub_site import ALICE, BOB, OTHER, Site, bytes_of
from hub_stand_in import CONFIG, WEIGHTS, adapter_repository
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.verdicts import FALSE_SECONDS, MAX_VERDICTS, TRUE_SECONDS, Verdicts
from waiting import until


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
    await until(lambda: site.hub.num_weight_requests == 2)
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
