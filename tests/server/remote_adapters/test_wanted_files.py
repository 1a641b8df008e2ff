"""Which files of a repository are an adapter's: all of them, in one place, or a refusal by name."""

import msgspec
import pytest

from hub_site import Site, bytes_of
from hub_stand_in import CONFIG, WEIGHTS, Repository
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import UnservedSource
from lorax_serve.server.sources.source import RemoteAdapter

TWO_FILES = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}


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


async def test_other_sources_are_named(site: Site) -> None:
    with pytest.raises(UnservedSource) as caught:
        await site.adapters.lease("ftp", "org/open", None)
    assert "`hub`" in caught.value.message
