"""Where the model comes from; the hub's own client talks to a hub on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from fake_hub import COMMIT, FakeHub, fake_hub
from lorax_serve.server import model_source
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.errors import StartError
from lorax_serve.server.model_source import ModelSource, download_model, find_model

WANTED = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"sentencepiece",
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "model.safetensors.index.json": b"{}",
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"import os",
    "consolidated.safetensors": b"the weights once more",
    "original/params.json": b"{}",
    "onnx/model.onnx": b"",
    "README.md": b"",
}


def say_nothing(line: str) -> None:
    pass


def found(
    model_id: str | None, cache_dir: Path, revision: str | None = None, hub: FakeHub | None = None
) -> ModelSource:
    config = ServerConfig(
        model_id=model_id,
        revision=revision,
        cache_dir=cache_dir,
        hub_endpoint=None if hub is None else hub.url,
    )
    return find_model(config, say_nothing)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub(FakeHub({**WANTED, **UNWANTED})) as hub:
        yield hub


def model_folder(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_a_local_folder_is_served_under_its_name(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m@1", "config.json", "model.safetensors")
    aliases = frozenset((str(folder),))
    assert found(str(folder), tmp_path) == ModelSource("m@1", None, folder, None, aliases)


@pytest.mark.parametrize("given", ["./m", "../models/m/", "m/.", "."])
def test_a_folder_has_one_name_however_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "models").mkdir()
    folder = model_folder(tmp_path / "models" / "m", "config.json", "model.safetensors")
    monkeypatch.chdir(folder if given == "." else folder.parent)
    source = found(given, tmp_path)
    assert (source.model_id, source.aliases) == ("m", {given, str(folder)})


def test_a_relative_folder_becomes_absolute_for_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "m", "config.json", "model.safetensors")
    monkeypatch.chdir(tmp_path)
    source = found("m", tmp_path)
    assert (source.model_id, source.folder) == ("m", folder)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("model.safetensors",), "has no config.json"),
        (("config.json", "pytorch_model.bin"), r"has no \*\.safetensors"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    tmp_path: Path, names: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence):
        found(str(model_folder(tmp_path / "m", *names)), tmp_path)


@pytest.mark.parametrize(
    "model_id", ["/no/such/folder", "./m", "../m", "a/b/c", "http://x/y", "a b", "", ".hidden"]
)
def test_what_is_neither_a_folder_nor_a_hub_id_never_reaches_the_hub(
    model_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(model_source, "HfApi")
    with pytest.raises(StartError, match=r"neither a folder here nor a hub id|has no config"):
        found(model_id, tmp_path)


def test_a_revision_goes_with_a_hub_id_and_is_named_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "config.json", "model.safetensors")
    for model_id in (str(folder), None, "org/model@v1"):
        with pytest.raises(StartError, match="revision"):
            found(model_id, tmp_path, revision="v2")


@pytest.mark.parametrize("model_id", ["org/model", "org/model@v1", f"org/model@{COMMIT}"])
def test_a_hub_model_is_fetched_at_one_commit_and_without_what_we_do_not_read(
    hub: FakeHub, tmp_path: Path, model_id: str
) -> None:
    source = found(model_id, tmp_path, hub=hub)
    assert (source.model_id, source.revision) == ("org/model", COMMIT)
    assert {path.name: path.read_bytes() for path in source.folder.iterdir()} == WANTED
    assert hub.fetched == set(WANTED)
    assert source.folder.is_relative_to(tmp_path / "hub")


def test_what_is_here_is_not_fetched_again_and_serves_without_the_hub(
    hub: FakeHub, tmp_path: Path
) -> None:
    api = HfApi(endpoint=hub.url)
    first = download_model("org/model", "v1", tmp_path, say_nothing, api)
    before = len(hub.fetched)
    hub.requests.clear()
    assert download_model("org/model", "v1", tmp_path, say_nothing, api) == first
    assert before and hub.fetched == set()
    gone = HfApi(endpoint="http://127.0.0.1:1")
    for revision in ("v1", COMMIT):
        assert download_model("org/model", revision, tmp_path, say_nothing, gone) == first


def test_an_unreachable_hub_and_nothing_here_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="out of reach") as caught:
        download_model(
            "org/model", None, tmp_path, say_nothing, HfApi(endpoint="http://127.0.0.1:1")
        )
    assert "local folder" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "revision", "sentence"),
    [
        ("org/absent", None, "neither a folder here nor a model of the hub"),
        ("org/model", "v9", "no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have_is_a_sentence(
    hub: FakeHub, tmp_path: Path, name: str, revision: str | None, sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence):
        download_model(name, revision, tmp_path, say_nothing, HfApi(endpoint=hub.url))


def test_a_gated_model_is_a_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    gated = FakeHub(WANTED, gated=True)
    with fake_hub(gated) as hub, pytest.raises(StartError, match="HF_TOKEN"):
        download_model("org/model", None, tmp_path, say_nothing, HfApi(endpoint=hub.url))


def test_a_hub_model_without_safetensors_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}
    with pytest.raises(StartError, match=r"no \*\.safetensors"):
        found("org/model", tmp_path, hub=hub)


def test_without_a_model_the_demo_is_served_with_its_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "prepare_demo_model", lambda cache, report: cache / "demo")
    source = found(None, tmp_path)
    assert source.model_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert source.folder == tmp_path / "demo"
    assert source.adapter_dir is not None
    assert source.adapter_dir.name == "adapters"


def test_the_operators_adapter_directory_goes_before_the_demos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "prepare_demo_model", lambda cache, report: cache)
    config = ServerConfig(adapter_dir=tmp_path, cache_dir=tmp_path)
    assert find_model(config, say_nothing).adapter_dir == tmp_path
