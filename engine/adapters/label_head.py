"""Classification heads that adapters bring: one linear from the final hidden state to labels.

PEFT trains them beside LoRA (`modules_to_save`) and saves them as `base_model.model.score.weight`,
[L, E], or `classifier`, and `.bias`, [L]. The config's `task_type` says what is classified: SEQ_CLS
the sequence, by its last token's state; TOKEN_CLS each token.

Legend: L labels, E hidden size.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lorax_serve.engine.adapters.finite import all_finite
from lorax_serve.engine.adapters.refusal import incompatible, not_finite, shown
from lorax_serve.ipc.types import HeadKind

HEAD_MODULES: Final = frozenset({"score", "classifier"})
MAX_LABELS: Final = 4096
KINDS: Final = {"SEQ_CLS": HeadKind.SEQUENCE, "TOKEN_CLS": HeadKind.TOKEN}  # by task_type

_TENSOR = re.compile(
    r"base_model\.model\.(score|classifier)(?:\.modules_to_save(?:\.default)?)?\.(weight|bias)"
)


@dataclass(frozen=True, slots=True)
class HeadShape:
    """All of a head but its numbers."""

    kind: HeadKind
    num_labels: int
    hidden_size: int
    has_bias: bool

    @property
    def num_elements(self) -> int:
        return self.num_labels * (self.hidden_size + self.has_bias)


@dataclass(frozen=True, slots=True)
class LabelHead:
    kind: HeadKind
    weight: torch.Tensor  # [L, E]
    bias: torch.Tensor | None  # [L]

    @property
    def shape(self) -> HeadShape:
        num_labels, hidden_size = self.weight.shape
        return HeadShape(self.kind, num_labels, hidden_size, self.bias is not None)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, E] -> [T, L] float32, each row by itself."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        weight = self.weight.to(hidden.dtype)
        return torch.nn.functional.linear(hidden, weight, bias).float()


@dataclass(frozen=True, slots=True)
class HeadNames:
    """Which tensors of a file are the head."""

    kind: HeadKind
    weight: str
    bias: str | None

    @property
    def num_tensors(self) -> int:
        return 1 if self.bias is None else 2

    def head(self, tensors: Mapping[str, torch.Tensor]) -> LabelHead:
        bias = None if self.bias is None else tensors[self.bias]
        return LabelHead(self.kind, tensors[self.weight], bias)


def is_head_tensor(name: str) -> bool:
    return _TENSOR.fullmatch(name) is not None


def find_head(
    tensors: Mapping[str, torch.Tensor], kind: HeadKind | None, hidden_size: int
) -> HeadNames | None:
    """The head among a file's tensors. Raises Refusal for one that cannot be served."""
    found = {m[0]: (m[1], m[2]) for name in tensors if (m := _TENSOR.fullmatch(name))}
    if not found:
        if kind is not None:
            raise incompatible("its config promises a classification head, and the file has none")
        return None
    if kind is None:
        name = shown(min(found))
        tasks = ", ".join(KINDS)
        raise incompatible(f"{name} is a full tensor: a head, if task_type were one of {tasks}")
    weights = [name for name, (_, what) in found.items() if what == "weight"]
    biases = [name for name, (_, what) in found.items() if what == "bias"]
    if len({module for module, _ in found.values()}) > 1 or len(weights) != 1 or len(biases) > 1:
        raise incompatible(f"it has more or less than one head: {_listed(found)}")
    names = HeadNames(kind, weights[0], biases[0] if biases else None)
    _check_shapes(tensors, names, hidden_size)
    return names


def head_of(slab: torch.Tensor, start: int, shape: HeadShape) -> LabelHead:
    """The head that lies from element `start` of a slab on: weight, then bias. Views."""
    end = start + shape.num_labels * shape.hidden_size
    weight = slab[start:end].view(shape.num_labels, shape.hidden_size)
    bias = slab[end : end + shape.num_labels] if shape.has_bias else None
    return LabelHead(shape.kind, weight, bias)


def check_head_finite(head: LabelHead) -> None:
    """Raises Refusal."""
    if not all(all_finite(each) for each in (head.weight, head.bias) if each is not None):
        raise not_finite("its classification head holds NaN or infinity")


def _check_shapes(tensors: Mapping[str, torch.Tensor], names: HeadNames, hidden_size: int) -> None:
    weight = tuple(tensors[names.weight].shape)
    if len(weight) != 2 or weight[1] != hidden_size or not 1 <= weight[0] <= MAX_LABELS:
        expected = f"1 to {MAX_LABELS} labels of {hidden_size}"
        raise incompatible(f"{shown(names.weight)} has shape {weight}, expected {expected}")
    if names.bias is not None:
        bias: Sequence[int] = tuple(tensors[names.bias].shape)
        if bias != weight[:1]:
            raise incompatible(f"{shown(names.bias)} has shape {bias}, expected {weight[:1]}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(shown(name) for name in names))
