"""A PEFT folder -> LoraWeights. An adapter whose files cannot be used is refused here, by name.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint. A tensor is named
`base_model.model.<module>.lora_A.weight` (or lora_B; older files say `lora_A.default.weight`),
where a module's name lacks `model.` if the decoder was trained without its head.
Nothing is skipped: each tensor of the file is used, or the adapter is refused.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lorax_serve.engine.adapters.blueprint import Blueprint, Blueprints
from lorax_serve.engine.adapters.config import CONFIG_NAME, AdapterConfig, parse_config
from lorax_serve.engine.adapters.file_watch import FileWatch
from lorax_serve.engine.adapters.files import FileContent, check_unchanged, read_file
from lorax_serve.engine.adapters.label_head import MAX_LABELS, find_head, is_head_tensor
from lorax_serve.engine.adapters.matrices import BaseWeight, pair_matrices
from lorax_serve.engine.adapters.read_memory import ReadMemory
from lorax_serve.engine.adapters.refusal import Misfit, Refusal, changed, incompatible, shown
from lorax_serve.engine.adapters.tensor_file import WEIGHTS_NAME, read_layout, split_file
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.lull import no_pause
from lorax_serve.ipc.folder_state import folder_state
from lorax_serve.ipc.types import AdapterRef, ErrorCode
from lorax_serve.kernels.lora import LoraSite

_REPLACED = "its files were replaced after the request had come; send it again"
LOADER_VERSION = b"1"  # raise it when the same files come to mean other numbers
_PICKLE_NAMES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_SHARDS = "adapter_model-*-of-*.safetensors"
_MAX_CONFIG_BYTES = 2**20
_HEADER_BYTES_PER_TARGET = 4096
_BYTES_PER_VALUE = 4  # of the widest served type


def read_adapter(
    ref: AdapterRef,
    sites: Sequence[LoraSite],
    *,
    max_rank: int,
    base_model: str = "",
    base_weight: BaseWeight | None = None,
    blueprints: Blueprints | None = None,
    memory: ReadMemory | None = None,
    pause: Callable[[], None] = no_pause,
    watch: FileWatch | None = None,
) -> LoraWeights:
    """Read and validate the adapter in folder `ref.path` for a model with these sites.

    `base_model` is what the served model is called, for messages. `base_weight(module)` gives its
    own weight of a module, or None; with it, full tensors that merely repeat the base are accounted
    for, otherwise they are refused. `blueprints` is given with the same other arguments each time;
    `pause` is called before work in Python. Blocks on the disk, as `watch` is told; safe on any
    thread. Raises AdapterRejected.
    """
    watch = FileWatch() if watch is None else watch
    try:
        return _read(
            ref,
            sites,
            max_rank=max_rank,
            base_model=base_model,
            base_weight=base_weight,
            blueprints=Blueprints() if blueprints is None else blueprints,
            memory=ReadMemory(0) if memory is None else memory,
            pause=pause,
            watch=watch,
        )
    except Refusal as refusal:
        with watch.over(ref.path):
            was_replaced = _was_replaced(ref)
        # Files that were replaced meanwhile say nothing about those that were meant.
        told = changed(_REPLACED) if was_replaced else refusal
        raise told.named(ref.name) from None


def _was_replaced(ref: AdapterRef, *opened: FileContent) -> bool:
    """Whether the folder is not, or what was read of it was not, as the ref says."""
    if not ref.is_writable:
        return False
    try:
        state = folder_state(Path(ref.path), {file.path.name: file.state for file in opened})
    except OSError:
        return True
    return state != ref.revision


def _read(
    ref: AdapterRef,
    sites: Sequence[LoraSite],
    *,
    max_rank: int,
    base_model: str,
    base_weight: BaseWeight | None,
    blueprints: Blueprints,
    memory: ReadMemory,
    pause: Callable[[], None],
    watch: FileWatch,
) -> LoraWeights:
    with watch.over(ref.path):
        config, weights_file = _read_files(ref, _max_weights_bytes(sites, max_rank), memory, watch)
    digest = _digest(LOADER_VERSION, config.canonical, weights_file.data)
    header, body = split_file(weights_file.data)
    kind = _digest(config.canonical, header)
    blueprint = blueprints.find(kind, len(body))
    if blueprint is None:
        try:
            blueprint = _judge(
                header, body, config, sites, max_rank=max_rank, base_weight=base_weight
            )
        except Misfit as misfit:
            raise Misfit(*_other_base(config.base_model, base_model), *misfit.reasons) from None
        if blueprint.num_named == len(blueprint.layout.names):  # no copies of base weights
            blueprints.keep(kind, blueprint)
    matrices, head = blueprint.weights(body, pause)
    return LoraWeights(
        name=ref.name,
        digest=digest,
        matrices=matrices,
        unknown_config_fields=config.unknown_fields,
        head=head,
    )


def _read_files(
    ref: AdapterRef, max_bytes: int, memory: ReadMemory, watch: FileWatch
) -> tuple[AdapterConfig, FileContent]:
    """Config and weights of at most so many bytes, as they lay there at one moment."""
    folder = Path(ref.path)
    config_file = _read_config(folder, memory, watch)
    config = parse_config(bytes(config_file.data))
    weights_file = _read_weights(folder, max_bytes, memory, watch)
    # A folder being replaced must not give the old config with the new weights.
    check_unchanged(config_file)
    check_unchanged(weights_file)
    if _was_replaced(ref, config_file, weights_file):
        raise changed(_REPLACED)
    return config, weights_file


def _judge(
    header: memoryview,
    body: memoryview,
    config: AdapterConfig,
    sites: Sequence[LoraSite],
    *,
    max_rank: int,
    base_weight: BaseWeight | None,
) -> Blueprint:
    """Raises Refusal unless tensors so named and shaped can be served as such a config says."""
    layout = read_layout(header, len(body))
    tensors = layout.tensors(layout.runs(body))
    matrices = {name: tensor for name, tensor in tensors.items() if not is_head_tensor(name)}
    pairs = pair_matrices(matrices, config, sites, max_rank=max_rank, base_weight=base_weight)
    # The last site is the model's own head: it reads what a classification head reads.
    head = find_head(tensors, config.head_kind, sites[-1].in_features)
    return Blueprint(layout, pairs, len(body), head)


def _other_base(made_for: str | None, served: str) -> Iterator[str]:
    """The reason behind shapes that do not fit, where the adapter names another base. Of names that
    are paths, the last part counts.
    """
    if made_for and served and _last_part(made_for) != _last_part(served):
        yield f"it was made for {shown(made_for)}, and this server serves {shown(served)}"


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].partition("@")[0].casefold()


def _read_config(folder: Path, memory: ReadMemory, watch: FileWatch) -> FileContent:
    path = folder / CONFIG_NAME
    try:
        return read_file(path, max_bytes=_MAX_CONFIG_BYTES, memory=memory, watch=watch)
    except FileNotFoundError:
        missing = CONFIG_NAME if folder.is_dir() else "its folder"
        raise Refusal(ErrorCode.MODEL_NOT_FOUND, f"{missing} is missing") from None


def _read_weights(
    folder: Path, max_bytes: int, memory: ReadMemory, watch: FileWatch
) -> FileContent:
    path = folder / WEIGHTS_NAME
    try:
        return read_file(path, max_bytes=max_bytes, memory=memory, watch=watch)
    except FileNotFoundError:
        raise _without_weights(folder) from None


def _without_weights(folder: Path) -> Refusal:
    for name in _PICKLE_NAMES:
        if (folder / name).exists():
            return incompatible(
                f"{name} is a pickle file, which is never opened; save the adapter as "
                f"{WEIGHTS_NAME} (PEFT: save_pretrained with safe_serialization=True)"
            )
    if any(folder.glob(_SHARDS)):
        return incompatible(f"its weights are in shards; save them as one {WEIGHTS_NAME}")
    return Refusal(ErrorCode.MODEL_NOT_FOUND, f"{WEIGHTS_NAME} is missing")


def _max_weights_bytes(sites: Sequence[LoraSite], max_rank: int) -> int:
    """What the largest adapter of the highest rank takes, with copies of a tied head beside it."""
    shapes = [(site.in_features, t.out_features) for site in sites for t in site.targets]
    num_values = sum(max_rank * (width + height) for width, height in shapes)
    num_values += 2 * max(width * height for width, height in shapes)
    num_values += MAX_LABELS * (sites[-1].in_features + 1)
    return _BYTES_PER_VALUE * num_values + _HEADER_BYTES_PER_TARGET * len(shapes)


def _digest(*parts: bytes | memoryview) -> str:
    """sha256 over the parts, each preceded by its length so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
