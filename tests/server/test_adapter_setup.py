"""What the operator's options make of sources and store."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hub_stand_in import Fault, HubStandIn, adapter_repository, serving_hub
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server import authority
from lorax_serve.server.adapter_resolver import AdapterResolver
from lorax_serve.server.adapter_setup import build_resolver, open_store
from lorax_serve.server.config import AdapterSource, ServerConfig
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.model_source import find_model, find_model_config
from lorax_serve.server.secret import Secret
from lorax_serve.server.sources.local import LocalAdapters

TOKEN = "hf_of_the_operator"


def resolver(folder: Path, *, has_folder: bool = True, **options: object) -> AdapterResolver:
    config = ServerConfig(cache_dir=folder, **options)  # type: ignore[arg-type]
    return build_resolver(
        config, LocalAdapters(folder, allow_absolute=False), has_folder=has_folder
    )


@pytest.mark.parametrize(
    ("has_folder", "option", "source"),
    [
        (True, None, "local"),
        (False, None, "hub"),
        (True, AdapterSource.HUB, "hub"),
        (False, AdapterSource.LOCAL, "local"),
    ],
)
async def test_where_a_bare_name_is_looked_up(
    tmp_path: Path, has_folder: bool, option: AdapterSource | None, source: str
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    hub = HubStandIn({"org/name": adapter_repository()})
    async with serving_hub(hub):
        made = resolver(
            tmp_path, has_folder=has_folder, adapter_source=option, hub_endpoint=hub.url
        )
        with await made.resolve("org/name", None, None) as adapter:
            assert adapter.source == source
        assert made.sources == ("local", "hub")
        await made.close()


async def test_the_operators_token_and_globs_reach_the_hub(tmp_path: Path) -> None:
    hub = HubStandIn({"org/closed": adapter_repository(tokens={TOKEN})})
    async with serving_hub(hub):
        options: dict[str, object] = {"hub_endpoint": hub.url, "hub_token": Secret(TOKEN)}
        named = resolver(tmp_path, adapter_allow="other/x, org/*", **options)
        (await named.resolve("org/closed", "HUB", None)).release()
        await named.close()
        unnamed = resolver(tmp_path, **options)
        with pytest.raises(ServeError):
            await unnamed.resolve("org/closed", "hub", None)
        await unnamed.close()


@pytest.mark.parametrize("grace", [0.0, 600.0])
async def test_the_operators_grace_for_private_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float
) -> None:
    monkeypatch.setattr(authority, "TRUE_SECONDS", 0.0)  # each request asks the hub
    hub = HubStandIn({"org/closed": adapter_repository(tokens={TOKEN})})
    async with serving_hub(hub):
        made = resolver(tmp_path, hub_endpoint=hub.url, private_adapter_grace=grace)
        (await made.resolve("org/closed", "hub", TOKEN)).release()
        hub.faults = [Fault(429, on_info=True, retry_after="3600") for _ in range(9)]
        try:
            (await made.resolve("org/closed", "hub", TOKEN)).release()
        except ServeError as error:
            assert error.code is ErrorCode.ADAPTER_UNAVAILABLE and not grace
        else:
            assert grace
        await made.close()


@pytest.mark.parametrize("token", [None, Secret(TOKEN)])
def test_no_token_crosses_a_network_unencrypted(tmp_path: Path, token: Secret | None) -> None:
    """A caller's may come with any request, so it makes no difference whether there is ours."""
    url = "http://hub.example"
    config = ServerConfig(
        cache_dir=tmp_path, model_id="org/model", hub_endpoint=url, hub_token=token
    )
    for start in (
        lambda: find_model(config, lambda line: None),
        lambda: find_model_config(config, lambda line: None),
        lambda: resolver(tmp_path, hub_endpoint=url, hub_token=token),
    ):
        with pytest.raises(StartError, match=f"--hub-endpoint {url} is not https") as refused:
            start()
        assert TOKEN not in str(refused.value)


async def test_limits_are_the_operators(tmp_path: Path) -> None:
    hub = HubStandIn({"org/name": adapter_repository(bytes(5000))})
    async with serving_hub(hub):
        made = resolver(tmp_path, hub_endpoint=hub.url, max_adapter_bytes=4096)
        with pytest.raises(ServeError, match="larger than the 4 KiB"):
            await made.resolve("org/name", "hub", None)
        await made.close()


def test_servers_that_share_a_cache_have_stores_of_their_own(tmp_path: Path) -> None:
    config = ServerConfig(cache_dir=tmp_path)
    with capture_logs() as logs:
        first = open_store(config)
    assert logs == [], "the usual one says nothing"
    with capture_logs() as logs:
        second = open_store(config)
    assert [store.folder.name for store in (first, second)] == ["0", "1"]
    (warning,) = logs
    assert warning["event"] == "adapter_cache_dir_not_named"
    assert (warning["adapter_cache_dir"], warning["others_with_adapters"]) == (
        str(second.folder),
        [],
    )
    assert "--adapter-cache-dir" in warning["remedy"]
    for store in (first, second):
        store.close()


async def test_what_lies_in_another_servers_folder_is_warned_of(tmp_path: Path) -> None:
    """A server that starts first after it was the second does not find what it had fetched."""
    hub = HubStandIn({"org/name": adapter_repository()})
    async with serving_hub(hub):
        other, ours = (resolver(tmp_path, hub_endpoint=hub.url) for _ in range(2))
        (await ours.resolve("org/name", "hub", None)).release()
        for each in (other, ours):
            await each.close()
        with capture_logs() as logs:
            again = resolver(tmp_path, hub_endpoint=hub.url)
        assert again.cache_dir == other.cache_dir != ours.cache_dir
        (warning,) = logs
        assert warning["others_with_adapters"] == [str(ours.cache_dir)]
        await again.close()


def test_a_store_that_was_named_is_that_one_or_none(tmp_path: Path) -> None:
    config = ServerConfig(adapter_cache_dir=tmp_path / "kept")
    store = open_store(config)
    with pytest.raises(StartError, match=f"in {tmp_path}/kept already.*--adapter-cache-dir"):
        open_store(config)
    store.close()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartError, match="cannot be kept"):
        open_store(ServerConfig(adapter_cache_dir=tmp_path / "file"))
