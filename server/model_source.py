"""Where the base model comes from: a folder of this machine, the Hugging Face hub, or the demo."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import lorax_serve
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.demo import HUB_ID as DEMO_ID
from lorax_serve.server.demo import prepare_demo_model
from lorax_serve.server.errors import StartError
from lorax_serve.server.hub_setup import hub_endpoint

Report = Callable[[str], None]

_HUB_ID: Final = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_HUB_TIMEOUT_SECONDS: Final = 10.0
# Nothing that could be code, and no second copy of the weights.
_WANTED: Final = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
_UNWANTED: Final = ("*/*", "consolidated*")


@dataclass(frozen=True)
class ModelSource:
    model_id: str  # what clients call the base model; of a folder its last name, never its path
    revision: str | None  # the commit of a hub model
    folder: Path
    adapter_dir: Path | None  # the operator's, or the demo's own
    aliases: frozenset[str] = frozenset()  # what a client may call it too


def find_model(config: ServerConfig, report: Report) -> ModelSource:
    """The model `config` names, on this machine when this returns. Raises StartError."""
    if config.model_id is None:
        if config.revision is not None:
            raise StartError("--revision goes with a --model-id of the hub.")
        folder = prepare_demo_model(config.cache_dir, report)
        return ModelSource(DEMO_ID, None, folder, config.adapter_dir or _demo_adapters())
    folder = Path(config.model_id).expanduser()
    if folder.is_dir():
        if config.revision is not None:
            raise StartError(f"--revision is for hub models, and {folder} is a folder.")
        folder = _checked(folder)
        aliases = frozenset((config.model_id, str(folder)))
        return ModelSource(folder.name, None, folder, config.adapter_dir, aliases)
    name, revision = _hub_name(config.model_id, config.revision)
    token = None if config.hub_token is None else config.hub_token.revealed
    hub = HfApi(endpoint=hub_endpoint(config), token=token)
    folder, commit = download_model(
        name, revision, config.cache_dir / "hub", report, hub, offline=config.hub_offline
    )
    return ModelSource(name, commit, _checked(folder), config.adapter_dir)


def find_model_config(config: ServerConfig, report: Report) -> Path:
    """A folder with at least the config.json of the model `config` names. Raises StartError."""
    if config.model_id is None or Path(config.model_id).expanduser().is_dir():
        folder = (
            prepare_demo_model(config.cache_dir, report)
            if config.model_id is None
            else Path(config.model_id).expanduser()
        )
        return _with_config(folder)
    name, revision = _hub_name(config.model_id, config.revision)
    token = None if config.hub_token is None else config.hub_token.revealed
    hub = HfApi(endpoint=hub_endpoint(config), token=token)
    folder, _ = download_model(
        name,
        revision,
        config.cache_dir / "hub",
        report,
        hub,
        wanted=("config.json",),
        offline=config.hub_offline,
    )
    return _with_config(folder)


def download_model(
    name: str,
    revision: str | None,
    cache_dir: Path,
    report: Report,
    hub: HfApi,
    *,
    wanted: Sequence[str] = _WANTED,
    offline: bool = False,
) -> tuple[Path, str]:
    """The folder and the commit of a hub model; what was downloaded before is not again.

    Where the hub is out of reach or not to be asked (`offline`), an earlier download of that
    revision serves. Raises StartError.
    """
    where = f"{name}@{revision}" if revision else name
    try:
        answers = not offline and _answers(hub, name, revision)
        report(f"Fetching {where} from the hub." if answers else f"Using {where} without the hub.")
        # It settles on one commit, fetches every file at that, and remembers it for `revision`.
        folder = hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            allow_patterns=list(wanted),
            ignore_patterns=list(_UNWANTED),
            local_files_only=not answers,
        )
    except GatedRepoError as error:
        raise StartError(
            f"{where} is gated: ask for access on its hub page and set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise StartError(f"The hub's {name} has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise StartError(
            f"{where} is neither a folder here nor a model of the hub that this machine may see; "
            "a private one needs HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        raise StartError(
            f"{where} is no folder here, the hub is out of reach, and {cache_dir} does not have "
            "it; give --model-id a local folder."
        ) from error
    except Exception as error:  # the transport's own, which differ between versions of the client
        raise StartError(f"{where} could not be downloaded: {type(error).__name__}.") from error
    return Path(folder), Path(folder).name


def _answers(hub: HfApi, name: str, revision: str | None) -> bool:
    """Whether the hub does, within seconds (snapshot_download waits for minutes).

    Raises the hub's refusal of the model or the revision.
    """
    try:
        hub.model_info(name, revision=revision, timeout=_HUB_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # see download_model
        return False
    return True


def _hub_name(model_id: str, revision: str | None) -> tuple[str, str | None]:
    name, _, own_revision = model_id.partition("@")
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise StartError(f"--model-id {model_id!r} is neither a folder here nor a hub id.")
    if own_revision and revision:
        raise StartError("Name the revision once: in --model-id after @, or in --revision.")
    return name, own_revision or revision


def _with_config(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise StartError(f"{folder} has no config.json: it is not a Hugging Face model folder.")
    return folder


def _checked(folder: Path) -> Path:
    _with_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise StartError(
            f"{folder} has no *.safetensors; other formats, pickles above all, are not read."
        )
    return Path(os.path.abspath(folder))  # not resolved: a link's own name is what users know


def _demo_adapters() -> Path | None:
    """The adapters of a checkout that this code runs from; an installed package has none."""
    adapters = Path(lorax_serve.__file__).resolve().parents[2] / "examples" / "adapters"
    return adapters if adapters.is_dir() else None
