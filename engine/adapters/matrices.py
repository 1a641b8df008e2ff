"""A file's tensors -> which are A and B of which module, every tensor accounted for or refused."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.config import CONFIG_NAME, AdapterConfig
from lorax_serve.engine.adapters.finite import all_finite
from lorax_serve.engine.adapters.refusal import Misfit, Refusal, incompatible, not_finite, shown
from lorax_serve.engine.adapters.weights import LoraMatrices
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.kernels.lora import LoraSite

# The base model's own weight of a module, [out, in], or None when it has no such module.
BaseWeight = Callable[[str], torch.Tensor | None]

_MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_FULL = re.compile(r"base_model\.model\.(.+?)(?:\.base_layer)?\.weight")
_OTHERS = (
    (re.compile(r".*\.lora_magnitude_vector(\..*)?"), "a DoRA magnitude"),
    (re.compile(r".*\.lora_embedding_[AB](\..*)?"), "LoRA on an embedding"),
    (re.compile(r".*\.trainable_tokens_.*"), "a trained embedding (trainable tokens)"),
    (re.compile(r".*\bbias"), "a trained bias"),
    (
        re.compile(r".*\.base_layer\.weight"),
        "a copy of a base weight; save the adapter with save_embedding_layers=False",
    ),
    (re.compile(r".*\.(?!lora_)[^.]*\.weight"), "a full tensor, not a LoRA matrix"),
)
_DECODER = "model."  # what comes before the decoder's modules in a model that has a head
_COMPARED_ROWS = 4096  # of two full tensors at a time, to bound what casting them takes


@dataclass(frozen=True, slots=True)
class _Shape:
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class MatrixPair:
    """One module's A and B, by their names in the file."""

    module: str
    a: str
    b: str
    scale: float  # see LoraMatrices

    def matrices(self, tensors: Mapping[str, torch.Tensor]) -> LoraMatrices:
        return LoraMatrices(tensors[self.a], tensors[self.b], self.scale)


def pair_matrices(
    tensors: Mapping[str, torch.Tensor],
    config: AdapterConfig,
    sites: Sequence[LoraSite],
    *,
    max_rank: int,
    base_weight: BaseWeight | None,
) -> tuple[MatrixPair, ...]:
    """The LoRA matrices by module. Raises Refusal with every reason that was found.

    Of the tensors' numbers only those of copies of base weights are looked at.
    """
    pairs, reasons = _pair_up(tensors, base_weight)
    shapes = {
        target.module: _Shape(site.in_features, target.out_features)
        for site in sites
        for target in site.targets
    }
    prefix = _missing_prefix(pairs, shapes)
    shapes = {module.removeprefix(prefix): shape for module, shape in shapes.items()}
    for module, names in pairs.items():
        pair = {side: tensors[name] for side, name in names.items()}
        reasons += _pair_problems(module, pair, config, shapes.get(module))
    if any(
        _is_misfit(side, tensors[name].shape, shapes.get(module))
        for module, names in pairs.items()
        for side, name in names.items()
    ):
        raise Misfit(*reasons)
    if reasons:
        raise incompatible(*reasons)
    if not pairs:
        raise incompatible("it holds no LoRA matrices")
    ranks = {module: tensors[names["A"]].shape[0] for module, names in pairs.items()}
    _check_ranks(ranks, max_rank)
    return tuple(
        MatrixPair(prefix + module, names["A"], names["B"], config.scale(module, ranks[module]))
        for module, names in pairs.items()
    )


def check_finite(matrices: Mapping[str, LoraMatrices]) -> None:
    """Raises Refusal naming the matrices that hold anything but numbers."""
    reasons = [
        f"{module}.lora_{side} holds NaN or infinity"
        for module, each in matrices.items()
        for side, matrix in (("A", each.a), ("B", each.b))
        if not all_finite(matrix)
    ]
    if reasons:
        raise not_finite(*reasons)


def _pair_up(
    tensors: Mapping[str, torch.Tensor], base_weight: BaseWeight | None
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The names of A and B by module, and why each of the other tensors stands in the way."""
    pairs: dict[str, dict[str, str]] = {}
    reasons = []
    for name, tensor in sorted(tensors.items()):
        match = _MATRIX.fullmatch(name)
        if match is None:
            if base_weight is None or not _is_base_copy(name, tensor, base_weight):
                reasons.append(f"{shown(name)} is {_describe(name)}")
            continue
        pair = pairs.setdefault(match[1], {})
        if match[2] in pair:
            reasons.append(f"{shown(name)} is there twice, with and without .default")
        pair[match[2]] = name
    return pairs, reasons


def _missing_prefix(written: Iterable[str], served: Collection[str]) -> str:
    """What all names lack of an adapter that was trained on the decoder without its head, as those
    for embeddings are (AutoModel); its config speaks of modules by the names that it knows.
    """
    names = frozenset(written)
    is_headless = names.isdisjoint(served) and any(_DECODER + name in served for name in names)
    return _DECODER if is_headless else ""


def _describe(name: str) -> str:
    for pattern, description in _OTHERS:
        if pattern.fullmatch(name):
            return description
    return "not a LoRA matrix of base_model.model.<module>"


def _is_base_copy(name: str, tensor: torch.Tensor, base_weight: BaseWeight) -> bool:
    """Whether a full tensor only repeats the base, as PEFT saves beside LoRA on lm_head."""
    match = _FULL.fullmatch(name)
    base = None if match is None else base_weight(match[1])
    if base is None or base.shape != tensor.shape:
        return False
    # Whichever of the two was rounded last, the other rounds to the same.
    return any(_equal_as(dtype, tensor, base) for dtype in (base.dtype, tensor.dtype))


def _equal_as(dtype: torch.dtype, tensor: torch.Tensor, base: torch.Tensor) -> bool:
    for start in range(0, tensor.shape[0], _COMPARED_ROWS):
        rows = slice(start, start + _COMPARED_ROWS)
        if not torch.equal(tensor[rows].to(dtype), base[rows].to("cpu", dtype)):
            return False
    return True


def _is_misfit(side: str, found: Sequence[int], shape: _Shape | None) -> bool:
    """Whether the matrix could be of no rank on this model."""
    if shape is None:
        return True
    return found[1:] != (shape.in_features,) if side == "A" else found[:1] != (shape.out_features,)


def _pair_problems(
    module: str, pair: Mapping[str, torch.Tensor], config: AdapterConfig, shape: _Shape | None
) -> list[str]:
    """Why the module's matrices cannot be used; empty when they can."""
    if shape is None:
        return [f"{shown(module)} is not a linear of this model"]
    field = config.targeting.why_not(module)
    if field is not None:
        return [f"{module} has LoRA matrices, but {field} leaves it out"]
    if len(pair) == 1:
        there, missing = ("A", "B") if "A" in pair else ("B", "A")
        return [f"{module} has lora_{there} but no lora_{missing}"]
    rank = config.rank(module)
    a, b = tuple(pair["A"].shape), tuple(pair["B"].shape)
    fits_otherwise = a[1:] == (shape.in_features,) and b == (shape.out_features, a[0])
    if fits_otherwise and a[0] != rank:
        return [f"{module} has matrices of rank {a[0]}, {CONFIG_NAME} says {rank}"]
    expected = {"A": (rank, shape.in_features), "B": (shape.out_features, rank)}
    return [
        f"{module}.lora_{side} has shape {tuple(pair[side].shape)}, expected {expected[side]} for "
        f"rank {rank} on this model"
        for side in ("A", "B")
        if tuple(pair[side].shape) != expected[side]
    ]


def _check_ranks(ranks: Mapping[str, int], max_rank: int) -> None:
    reasons = [
        f"{module} has rank {rank}, the highest served is {max_rank}"
        for module, rank in ranks.items()
        if rank > max_rank
    ]
    if reasons:
        raise Refusal(ErrorCode.ADAPTER_TOO_LARGE, *reasons)
