"""Adapters of the hub: which files of a repository they are, as the published client has it."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hub_downloads import SECRET, fetched
from hub_stand_in import CONFIG, WEIGHTS, HubStandIn, Repository
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.layout import NESTED_FOLDERS


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
