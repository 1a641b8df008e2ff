"""The hub as a source of adapters, over real sockets: faults 18 to 22 of the fault matrix."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from huggingface_hub import HfApi
from hypothesis import given
from hypothesis import strategies as st

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
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.hub_id import parse_hub_id
from lorax_serve.server.sources.layout import NESTED_FOLDERS
from lorax_serve.server.sources.retries import Retries, parse_retry_after
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteAdapter,
    SourceCorrupt,
    SourceUnavailable,
)

SECRET = "hf_callers_own"
FAST = Retries(first_bound=0.001, longest_wait=0.5)


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[HubStandIn]:
    made = HubStandIn()
    made.repositories["org/open"] = adapter_repository()
    made.repositories["org/closed"] = adapter_repository(tokens={SECRET})
    async with serving_hub(made):
        yield made


@pytest_asyncio.fixture
async def source(hub: HubStandIn) -> AsyncIterator[HubSource]:
    made = HubSource(hub.url, stall_seconds=0.3, retries=FAST)
    yield made
    await made.close()


async def fetched(
    source: HubSource, adapter: RemoteAdapter, folder: Path, token: str | None = None
) -> bytes:
    """The weights, by way of `folder`."""
    counted: list[int] = []
    file = next(f for f in adapter.files if f.name.endswith(".safetensors"))
    path = folder / file.name
    before = path.stat().st_size if path.exists() else 0
    await source.download(adapter, file, path, token, counted.append)
    assert before + sum(counted) == path.stat().st_size
    return path.read_bytes()


async def test_it_is_a_hub_to_huggingface_hub_and_we_read_it_alike(
    hub: HubStandIn, source: HubSource, tmp_path: Path
) -> None:
    """The stand-in is judged by the published client, and so is what we make of its replies."""
    hub.repositories["org/closed"].commits[0] |= {"README.md": b"x", "adapter_model.bin": b"x"}
    for name, token in (("org/open", None), ("org/closed", SECRET)):
        adapter = await source.resolve(name, token)
        api = HfApi(endpoint=hub.url, token=token or False)
        info = await asyncio.to_thread(api.model_info, name, files_metadata=True)
        assert (adapter.repository, adapter.revision) == (info.id, info.sha)
        assert adapter.public == (not info.private)
        assert info.siblings is not None
        theirs = {
            (s.rfilename, s.size, s.lfs.sha256 if s.lfs else None)
            for s in info.siblings
            if s.rfilename in ("adapter_config.json", "adapter_model.safetensors")
        }
        assert {(f.name, f.num_bytes, f.sha256) for f in adapter.files} == theirs
        path = await asyncio.to_thread(
            api.hf_hub_download,
            name,
            "adapter_model.safetensors",
            revision=info.sha,
            local_dir=tmp_path / info.id,
        )
        assert await fetched(source, adapter, tmp_path, token) == Path(path).read_bytes() == WEIGHTS
        (tmp_path / "adapter_model.safetensors").unlink()


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


IDS_THAT_NAME_NOTHING = [
    "",
    "name",
    "http://h/x",
    "https://huggingface.co/org/open",
    "//h/x",
    "a/b/../c",
    "a/..",
    "../b",
    "./b",
    "a\\b",
    "a/b?x=1",
    "a/b#x",
    "user:key@h/x",
    "a/b@../../c",
    "a/b@x//y",
    "a/b@",
    "a/b@/x",
    "a/b%2e",
    "a/b\n",
    "a/b\x00",
    "a\u2215b/c",
    "\uff41/b",
    "a/" + "b" * 97,
]


@pytest.mark.parametrize("adapter_id", IDS_THAT_NAME_NOTHING)
async def test_ids_that_can_name_nothing_reach_no_network(
    hub: HubStandIn, source: HubSource, adapter_id: str
) -> None:
    with pytest.raises(ServeError) as caught:
        source.check_id(adapter_id)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    with pytest.raises(ServeError):
        await source.resolve(adapter_id, None)
    assert hub.seen == []


@given(st.text(alphabet=st.sampled_from("ab.-_/@:?#%\\~ \n\u2215\uff0f0"), max_size=20))
def test_what_passes_is_one_repository_and_one_revision(adapter_id: str) -> None:
    try:
        parsed = parse_hub_id(adapter_id)
    except ServeError:
        return
    owner, name = parsed.repository.split("/")
    assert not {owner, name} & {"", ".", ".."}
    revision = "" if parsed.revision is None else f"@{parsed.revision}"
    assert parsed.repository + revision == adapter_id
    assert adapter_id.isascii()
    assert not set("?#%\\: \n~") & set(adapter_id)


async def test_a_file_list_without_sense(hub: HubStandIn, source: HubSource) -> None:
    adapter = await source.resolve("org/open", None)
    assert [f.name for f in adapter.files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert adapter.files[1].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert adapter.files[0].num_bytes == len(CONFIG)


def at(folder: str, weights: bytes = WEIGHTS) -> dict[str, bytes]:
    return {f"{folder}adapter_config.json": CONFIG, f"{folder}adapter_model.safetensors": weights}


@pytest.mark.parametrize("folder", NESTED_FOLDERS)
async def test_ludwigs_layout_is_found_in_the_one_list_of_files(
    hub: HubStandIn, source: HubSource, tmp_path: Path, folder: str
) -> None:
    beside = {"model/model_hyperparameters.json": b"{}", "adapter_model.safetensors": b"root's"}
    extra = {f"{folder}README.md": b"x", f"{folder}deeper/adapter_config.json": b"x"}
    hub.repositories["org/ludwig"] = Repository([at(folder) | beside | extra])
    adapter = await source.resolve("org/ludwig", None)
    assert len(hub.seen) == 1
    assert [f.name for f in adapter.files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert await fetched(source, adapter, tmp_path) == WEIGHTS
    assert hub.paths(f"/resolve/{adapter.revision}/{folder}adapter_model.safetensors")


async def test_the_root_goes_before_ludwigs_folders(
    hub: HubStandIn, source: HubSource, tmp_path: Path
) -> None:
    nested = at("model_weights/", b"nested") | at("model/model_weights/", b"deeper")
    hub.repositories["org/both"] = Repository([nested, nested | at("")])
    assert await fetched(source, await source.resolve("org/both", None), tmp_path) == WEIGHTS
    before = await source.resolve(f"org/both@{hub.repositories['org/both'].sha(0)}", None)
    (tmp_path / "adapter_model.safetensors").unlink()
    assert await fetched(source, before, tmp_path) == b"nested"


def test_retry_after() -> None:
    assert parse_retry_after("12") == 12
    for value in (None, "", "-1", "soon", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT", "٣"):
        assert parse_retry_after(value) is None
