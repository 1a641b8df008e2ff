import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.sources import local
from lorax_serve.server.sources.layout import NESTED_FOLDERS
from lorax_serve.server.sources.local import LocalAdapters


def make(folder: Path, config: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(config)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An adapter directory with two adapters, beside a secret one."""
    make(tmp_path / "secret")
    make(tmp_path / "root" / "support")
    make(tmp_path / "root" / "team" / "sql")
    return tmp_path / "root"


@pytest.fixture
def adapters(root: Path) -> LocalAdapters:
    return LocalAdapters(root, allow_absolute=False)


def refusal(adapters: LocalAdapters, adapter_id: str) -> str:
    with pytest.raises(ServeError) as refused:
        adapters.resolve(adapter_id)
    assert refused.value.code is ErrorCode.MODEL_NOT_FOUND
    return refused.value.message


def test_names_lead_to_folders(adapters: LocalAdapters, root: Path) -> None:
    support, sql = adapters.resolve("support"), adapters.resolve("team/sql")
    assert (support.name, support.path) == ("support", str(root / "support"))
    assert (sql.name, sql.path) == ("team/sql", str(root / "team" / "sql"))


@pytest.mark.parametrize(
    "adapter_id",
    [
        "",
        ".",
        "..",
        "../secret",
        "support/../../secret",
        "support/..",
        "./support",
        "support/",
        "support//",
        "team//sql",
        "//support",
        "/etc",
        "/",
        "%2e%2e/secret",
        "..%2fsecret",
        "%2E%2E%2Fsecret",
        "..\\secret",
        "team\\sql",
        "support\0",
        "\0",
        "sup\nport",
        "support\x7f",
        "support\x85",
        "~",
        "\udc80",
        "\ud800",
        "support/adapter_config.json",
        "x" * 10_000,
        "/".join(["support"] * 100),
        "SUPPORT!",
    ],
)
def test_whatever_is_wrong_the_adapter_does_not_exist(
    adapters: LocalAdapters, adapter_id: str
) -> None:
    shown = adapter_id if len(adapter_id) <= 128 else adapter_id[:128] + "…"
    assert refusal(adapters, adapter_id) == f"Model {shown!r} does not exist."
    assert refusal(LocalAdapters(None, allow_absolute=False), adapter_id)


def test_the_message_is_safe_to_print(adapters: LocalAdapters) -> None:
    message = refusal(adapters, "a\x1b[31m\u202e\n" + "b" * 1000)
    assert message.isprintable()
    assert len(message) < 200


def test_links_may_stay_inside_only(adapters: LocalAdapters, root: Path) -> None:
    (root / "alias").symlink_to("support")
    (root / "leak").symlink_to(root.parent / "secret")
    (root / "team" / "up").symlink_to("../..")
    (root / "gone").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    assert adapters.resolve("alias").path == str(root / "support")
    for adapter_id in ("leak", "team/up/secret", "gone", "loop", "loop/x"):
        assert refusal(adapters, adapter_id) == f"Model '{adapter_id}' does not exist."
    assert adapters.list() == ["alias", "support", "team/sql"]


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    adapters = LocalAdapters(link, allow_absolute=False)
    assert adapters.resolve("support").path == str(root / "support")


def test_absolute_paths_only_when_allowed(root: Path) -> None:
    secret = str(root.parent / "secret")
    assert refusal(LocalAdapters(root, allow_absolute=False), str(root / "support"))
    allowed = LocalAdapters(None, allow_absolute=True)
    assert allowed.resolve(secret).path == secret
    for adapter_id in (f"{root}/../secret", f"/{secret}", secret + "/", secret + "x", "support"):
        assert refusal(allowed, adapter_id)


def test_absolute_paths_may_run_through_hidden_folders(tmp_path: Path) -> None:
    folder = make(tmp_path / ".cache" / "...adapter")
    assert LocalAdapters(None, allow_absolute=True).resolve(str(folder)).path == str(folder)


def test_a_folder_without_config_resolves(adapters: LocalAdapters, root: Path) -> None:
    before = adapters.resolve("team")
    make(root / "team" / "other")
    assert adapters.resolve("team") == before
    (root / "team" / "adapter_config.json").write_text("{}")
    assert adapters.resolve("team").revision != before.revision


@pytest.mark.parametrize("inner", NESTED_FOLDERS)
def test_ludwigs_layout(adapters: LocalAdapters, root: Path, inner: str) -> None:
    folder = make(root / "trained" / inner)
    seen = [adapters.resolve("trained")]
    assert (seen[0].name, seen[0].path) == ("trained", str(folder))
    (folder / "adapter_model.safetensors").write_bytes(b"other weights")
    seen.append(adapters.resolve("trained"))
    assert seen[1].path == seen[0].path and seen[1].revision != seen[0].revision
    (root / "trained" / "adapter_config.json").write_text("{}")  # from now on the root is it
    assert adapters.resolve("trained").path == str(root / "trained")
    absolute = LocalAdapters(None, allow_absolute=True)
    assert absolute.resolve(str(root / "trained")).path == str(root / "trained")
    (root / "trained" / "adapter_config.json").unlink()
    assert absolute.resolve(str(root / "trained")).path == str(folder)


def test_the_root_is_the_adapter_be_its_config_a_link_to_nowhere(
    adapters: LocalAdapters, root: Path
) -> None:
    make(root / "trained" / "model_weights")
    (root / "trained" / "adapter_config.json").symlink_to("nowhere")
    assert adapters.resolve("trained").path == str(root / "trained")


def test_without_a_config_anywhere_the_folder_itself_is_meant(
    adapters: LocalAdapters, root: Path
) -> None:
    make(root / "trained" / "model_weights")
    (root / "trained" / "model_weights" / "adapter_config.json").unlink()
    make(root / "trained" / "weights")
    assert adapters.resolve("trained").path == str(root / "trained")


@pytest.mark.parametrize("inner", NESTED_FOLDERS)
def test_ludwigs_folders_are_inside_too(adapters: LocalAdapters, root: Path, inner: str) -> None:
    nested = root / "trained" / inner
    nested.parent.mkdir(parents=True)
    nested.symlink_to(root.parent / "secret")
    assert adapters.resolve("trained").path == str(root / "trained")
    assert "trained" not in adapters.list()
    nested.unlink()
    nested.symlink_to(root / "support")
    assert adapters.resolve("trained").path == str(root / "support")
    nested.unlink()
    nested.symlink_to(nested)
    assert adapters.resolve("trained").path == str(root / "trained")


def test_other_bytes_of_equal_size_and_time_are_another_revision(
    adapters: LocalAdapters, root: Path
) -> None:
    """As an archive unpacks them over the old ones: the same file, its time set."""
    weights = root / "support" / "adapter_model.safetensors"
    weights.write_bytes(b"some weights")
    os.utime(weights, ns=(1, 1))
    before, inode = adapters.resolve("support"), weights.stat().st_ino
    time.sleep(0.02)  # some file systems count time in ticks
    weights.write_bytes(b"more weights")
    os.utime(weights, ns=(1, 1))
    assert weights.stat().st_ino == inode and weights.stat().st_mtime_ns == 1
    assert adapters.resolve("support").revision != before.revision


def test_the_revision_changes_with_the_files(adapters: LocalAdapters, root: Path) -> None:
    folder = root / "support"
    weights = folder / "adapter_model.safetensors"
    seen = [adapters.resolve("support")]
    assert adapters.resolve("support") == seen[0]

    (folder / "README.md").write_text("not part of the adapter")
    assert adapters.resolve("support") == seen[0]

    os.utime(weights, ns=(1, 1))
    seen.append(adapters.resolve("support"))
    weights.write_bytes(b"other weights")
    os.utime(weights, ns=(1, 1))
    seen.append(adapters.resolve("support"))
    replacement = folder / "new"
    replacement.write_bytes(b"alike weights")
    os.utime(replacement, ns=(1, 1))
    replacement.rename(weights)
    seen.append(adapters.resolve("support"))
    (folder / "adapter_model.bin").write_bytes(b"")
    seen.append(adapters.resolve("support"))
    (folder / "adapter_model.bin").unlink()
    weights.unlink()
    seen.append(adapters.resolve("support"))
    weights.symlink_to("nowhere")
    seen.append(adapters.resolve("support"))
    assert len({ref.revision for ref in seen}) == len(seen)
    assert len({ref.path for ref in seen}) == 1


def test_equal_files_elsewhere_are_another_adapter(adapters: LocalAdapters, root: Path) -> None:
    assert adapters.resolve("support") != adapters.resolve("team/sql")


def test_listing(adapters: LocalAdapters, root: Path) -> None:
    make(root / ".hidden")
    make(root / "a" / "b" / "too_deep")
    make(root / "support" / "variant")
    make(root / "50%")
    (root / "file").write_text("")
    (root / "empty").mkdir()
    assert adapters.list() == ["support", "support/variant", "team/sql"]
    assert all(adapters.resolve(name) for name in adapters.list())
    assert LocalAdapters(None, allow_absolute=True).list() == []


def test_what_a_layout_nests_is_listed_once(adapters: LocalAdapters, root: Path) -> None:
    make(root / "model" / "model_weights")
    make(root / "results" / "model" / "model_weights")
    make(root / "team" / "trained" / "model" / "model_weights")
    make(root / "model" / "variant")
    assert adapters.list() == [
        "model",
        "model/variant",
        "results",
        "support",
        "team/sql",
        "team/trained",
    ]
    assert all(adapters.resolve(name) for name in adapters.list())


def test_listing_is_bounded(
    adapters: LocalAdapters, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        make(root / f"n{number}")
    monkeypatch.setattr(local, "MAX_LISTED", 5)
    assert adapters.list() == ["n0", "n1", "n2", "n3", "n4"]


def test_a_root_that_is_no_directory_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no directory"):
        LocalAdapters(tmp_path / "absent", allow_absolute=False)


PARTS = st.sampled_from(["..", ".", "", "secret", "support", "team", "sql", "%2e%2e", "a\\b", "\0"])


@given(st.one_of(st.text(max_size=20), st.lists(PARTS, max_size=6).map("/".join)))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_no_name_leads_outside(tmp_path_factory: pytest.TempPathFactory, adapter_id: str) -> None:
    base = tmp_path_factory.getbasetemp() / "property"
    if not base.exists():
        make(base / "secret")
        make(base / "root" / "support")
        make(base / "root" / "team" / "sql")
    try:
        ref = LocalAdapters(base / "root", allow_absolute=False).resolve(adapter_id)
    except ServeError as refused:
        assert refused.code is ErrorCode.MODEL_NOT_FOUND
    else:
        assert Path(ref.path).is_relative_to(base / "root")
        assert ref.path == str(base / "root" / adapter_id)
