"""Whose token the hub sees: the caller's or the operator's, there only, and refusals are one."""

from pathlib import Path

import pytest

from hub_downloads import FAST, SECRET, fetched
from hub_stand_in import WEIGHTS, HubStandIn, adapter_repository
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.source import NotFoundOrForbidden


async def test_no_implicit_token(
    hub: HubStandIn, source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hf_of_the_machine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
    await fetched(source, await source.resolve("org/open", None), tmp_path)
    assert hub.seen
    assert {seen.authorization for seen in hub.seen} == {None}


async def test_the_token_goes_to_the_hub_and_not_where_it_redirects_to(
    hub: HubStandIn, source: HubSource, tmp_path: Path
) -> None:
    adapter = await source.resolve("org/closed", SECRET)
    assert await fetched(source, adapter, tmp_path, SECRET) == WEIGHTS
    assert {s.authorization for s in hub.seen if not s.on_network} == {f"Bearer {SECRET}"}
    assert {s.authorization for s in hub.seen if s.on_network} == {None}


@pytest.mark.parametrize("token", [None, "hf_wrong"])
@pytest.mark.parametrize("name", ["org/closed", "org/absent", "org/open@absent", "org/gated"])
async def test_fault_20_refusals_are_one(
    hub: HubStandIn, source: HubSource, name: str, token: str | None
) -> None:
    hub.repositories["org/gated"] = adapter_repository(tokens={SECRET})
    hub.repositories["org/gated"].gated = True
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve(name, token)


async def test_a_gated_repository_is_for_those_who_may_have_its_files(
    hub: HubStandIn, source: HubSource
) -> None:
    hub.repositories["org/gated"] = adapter_repository(tokens={SECRET})
    hub.repositories["org/gated"].gated = True
    assert not (await source.resolve("org/gated", SECRET)).public


async def test_the_operators_token_is_for_what_the_operator_named(hub: HubStandIn) -> None:
    hub.repositories["team/closed"] = adapter_repository(tokens={SECRET})
    source = HubSource(hub.url, allowed=["org/*"], operator_token=SECRET, retries=FAST)
    assert not (await source.resolve("org/closed", None)).public
    hub.seen.clear()
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve("team/closed", None)
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve("team/closed", SECRET)
    assert hub.seen == []
    with pytest.raises(NotFoundOrForbidden):  # a token of one's own is the one that counts
        await source.resolve("org/closed", "hf_wrong")
    await source.close()
    unnamed = HubSource(hub.url, operator_token=SECRET, retries=FAST)
    with pytest.raises(NotFoundOrForbidden):
        await unnamed.resolve("org/closed", None)
    await unnamed.close()
