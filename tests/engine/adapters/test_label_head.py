"""Classification heads in adapters' files: which are taken, and what is said of the others."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorax_serve.engine.adapters.blueprint import Blueprints
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.merge import merge_weights
from lorax_serve.engine.check_adapter import describe
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.adapter_check import AdapterCheck
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.types import ErrorCode, HeadKind, MergedAdapters, MergeStrategy
from peft_adapters import adapter_ref, edit_config, edit_tensors
from peft_heads import build_head_adapter
from random_lora import pack
from tiny_llama import BASE, SITES

Tensors = dict[str, torch.Tensor]

WEIGHT, BIAS = "base_model.model.score.weight", "base_model.model.score.bias"


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    BASE.save_pretrained(folder)
    return folder


@pytest.fixture
def token_adapter(base_folder: Path, tmp_path: Path) -> Path:
    build_head_adapter(tmp_path, base_folder, HeadKind.TOKEN, num_labels=5)
    return tmp_path


def read(folder: Path, **options: object) -> object:
    return read_adapter(adapter_ref(folder), SITES, max_rank=8, **options)


@pytest.mark.parametrize("transposed_a", [True, False])
def test_a_head_lies_behind_the_matrices(token_adapter: Path, transposed_a: bool) -> None:
    weights = read_adapter(adapter_ref(token_adapter), SITES, max_rank=8)
    assert weights.head is not None
    assert weights.head.kind is HeadKind.TOKEN
    packed = pack(weights, SITES, dtype=torch.float32, transposed_a=transposed_a)
    assert packed.slab.numel() == packed.layout.num_elements == weights.num_elements
    head = packed.layout.label_head(packed.slab)
    assert head is not None
    assert head.bias is not None and weights.head.bias is not None
    assert torch.equal(head.weight, weights.head.weight)
    assert torch.equal(head.bias, weights.head.bias)


def test_the_second_of_a_kind_has_its_own_numbers(
    base_folder: Path, token_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Judging is done once for all that are alike."""
    other = tmp_path_factory.mktemp("other")
    build_head_adapter(other, base_folder, HeadKind.TOKEN, num_labels=5, seed=1)
    blueprints = Blueprints()
    one, two = (
        read_adapter(adapter_ref(folder), SITES, max_rank=8, blueprints=blueprints)
        for folder in (token_adapter, other)
    )
    assert one.head is not None and two.head is not None
    assert one.head.shape == two.head.shape
    assert not torch.equal(one.head.weight, two.head.weight)
    assert one.digest != two.digest


@pytest.mark.parametrize("infix", ["", ".modules_to_save", ".modules_to_save.default"])
@pytest.mark.parametrize("module", ["score", "classifier"])
def test_names_as_versions_of_peft_write_them(token_adapter: Path, module: str, infix: str) -> None:
    name = f"base_model.model.{module}{infix}"
    edit_tensors(
        token_adapter,
        lambda tensors: {k.replace("base_model.model.score", name): v for k, v in tensors.items()},
    )
    weights = read_adapter(adapter_ref(token_adapter), SITES, max_rank=8)
    assert weights.head is not None


def with_tensors(**changes: torch.Tensor | None) -> Callable[[Tensors], Tensors]:
    """Other tensors under these names, or none."""
    named = {{"weight": WEIGHT, "bias": BIAS}.get(k, k): v for k, v in changes.items()}

    def change(tensors: Tensors) -> Tensors:
        return {k: v for k, v in {**tensors, **named}.items() if v is not None}

    return change


BROKEN: dict[str, tuple[Callable[[Tensors], Tensors], str, ErrorCode]] = {
    "width": (with_tensors(weight=torch.ones(5, 63)), "shape", ErrorCode.ADAPTER_INCOMPATIBLE),
    "dims": (with_tensors(weight=torch.ones(64)), "shape", ErrorCode.ADAPTER_INCOMPATIBLE),
    "none": (with_tensors(weight=torch.ones(0, 64)), "shape", ErrorCode.ADAPTER_INCOMPATIBLE),
    "many": (with_tensors(weight=torch.ones(4097, 64)), "shape", ErrorCode.ADAPTER_INCOMPATIBLE),
    "bias": (with_tensors(bias=torch.ones(4)), "shape", ErrorCode.ADAPTER_INCOMPATIBLE),
    "no weight": (with_tensors(weight=None), "one head", ErrorCode.ADAPTER_INCOMPATIBLE),
    "nothing": (
        with_tensors(weight=None, bias=None),
        "the file has none",
        ErrorCode.ADAPTER_INCOMPATIBLE,
    ),
    "two": (
        with_tensors(**{"base_model.model.classifier.weight": torch.ones(5, 64)}),
        "one head",
        ErrorCode.ADAPTER_INCOMPATIBLE,
    ),
    "nan": (
        with_tensors(bias=torch.tensor([0.0, 1, torch.nan, 3, 4])),
        "head holds NaN",
        ErrorCode.ADAPTER_NOT_FINITE,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_heads_that_are_refused(token_adapter: Path, case: str) -> None:
    change, said, code = BROKEN[case]
    edit_tensors(token_adapter, change)
    with pytest.raises(AdapterRejected, match=said) as refused:
        read(token_adapter)
    assert refused.value.code is code


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task_type": "CAUSAL_LM"}, "task_type is none of"),
        ({"task_type": None}, "task_type is none of"),
        ({"modules_to_save": ["score", "lm_head"]}, "fully trained modules"),
        ({"modules_to_save": "score"}, "fully trained modules"),
        ({"modules_to_save": None}, "full tensor"),
    ],
    ids=str,
)
def test_configs_that_say_something_else(
    token_adapter: Path, fields: dict[str, object], said: str
) -> None:
    edit_config(token_adapter, **fields)
    with pytest.raises(AdapterRejected, match=said):
        read(token_adapter)


def test_a_head_too_large_for_the_type_of_the_slab(token_adapter: Path) -> None:
    edit_tensors(token_adapter, with_tensors(bias=torch.tensor([0.0, 1e6, 0, 0, 0])))
    weights = read_adapter(adapter_ref(token_adapter), SITES, max_rank=8)
    with pytest.raises(AdapterRejected, match="head overflows float16"):
        pack(weights, SITES, dtype=torch.float16, transposed_a=False)


def test_heads_do_not_merge(token_adapter: Path) -> None:
    ref = adapter_ref(token_adapter)
    weights = read_adapter(ref, SITES, max_rank=8)
    merge = MergedAdapters((ref, ref), (1.0, 1.0), MergeStrategy.LINEAR)
    with pytest.raises(AdapterRejected, match="has a classification head"):
        merge_weights(merge, [weights, weights], max_rank=8, max_elements=10**6)


def test_the_check_tells_of_it(base_folder: Path, token_adapter: Path) -> None:
    engine = EngineConfig(endpoint="", model_path=str(base_folder))
    lines = describe(AdapterCheck(str(token_adapter), engine))
    assert "  head     of 5 labels for each token: it classifies" in lines
