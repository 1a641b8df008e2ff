"""Merged adapters through the whole engine: greedy tokens of a model that PEFT or numpy merged."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from local_engine import LocalEngine, greedy
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import (
    AnyAdapterRef,
    ErrorCode,
    MajoritySignMethod,
    MergedAdapters,
    MergeStrategy,
)
from merge_cases import elect_and_average, in_numpy, trim
from oracles import prompts, reference_tokens
from peft_adapters import adapter_ref, build_adapter, edit_tensors, peft_deltas
from tiny_models import build_tiny_model

NUM_TOKENS = 32
WEIGHTS = (0.8, -1.5)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def base(model_folder: Path) -> torch.nn.Module:
    return build_tiny_model("llama", model_folder)


@pytest.fixture(scope="module")
def parts(base: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PeftModel]:
    """Two adapters of different ranks, scales and targets, by folder."""
    root = tmp_path_factory.mktemp("adapters")
    kinds: dict[str, dict[str, Any]] = {
        "a": {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"], "magnitude": 0.6},
        "b": {"rank": 9, "targets": ["q_proj", "gate_proj"], "lora_alpha": 9},
    }
    return {
        str(root / name): build_adapter(root / name, base, seed=seed, **kind)
        for seed, (name, kind) in enumerate(kinds.items(), 5)
    }


def merge_of(parts: dict[str, PeftModel], *how: Any) -> MergedAdapters:
    return MergedAdapters(tuple(adapter_ref(Path(folder)) for folder in parts), WEIGHTS, *how)


def request(name: str, prompt: list[int], adapter: AnyAdapterRef) -> Generate:
    plain = greedy(name, prompt, num_tokens=NUM_TOKENS)
    return Generate(name, prompt, plain.sampling, plain.stop, adapter=adapter)


def check(folder: Path, merge: MergedAdapters, oracle: torch.nn.Module) -> None:
    (prompt,) = prompts(1, seed=8, low=8)
    expected = reference_tokens(oracle, prompt, NUM_TOKENS)
    with LocalEngine(folder) as engine:
        got = engine.generate(
            request("merged", prompt, merge),
            request("part", prompt, merge.parts[0]),
            greedy("base", prompt, num_tokens=NUM_TOKENS),
        )
        again = engine.generate(request("merged", prompt, merge))["merged"]
    tokens = {name: each.token_ids for name, each in got.items()}
    assert tokens["merged"] == expected
    assert again.token_ids == expected
    assert len({tuple(each) for each in tokens.values()}) == 3, "the merge changes nothing"


def test_linear_says_what_a_model_merged_by_peft_says(
    model_folder: Path, base: torch.nn.Module, parts: dict[str, PeftModel]
) -> None:
    first, second = parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = PeftModel.from_pretrained(copy.deepcopy(base), first, adapter_name="a")
        oracle.load_adapter(second, adapter_name="b")
        oracle.add_weighted_adapter(
            ["a", "b"], list(WEIGHTS), adapter_name="ab", combination_type="cat"
        )
    oracle.set_adapter("ab")
    check(model_folder, merge_of(parts), oracle)


@pytest.mark.parametrize("method", MajoritySignMethod)
def test_ties_says_what_a_model_with_the_dense_merge_says(
    model_folder: Path,
    base: torch.nn.Module,
    parts: dict[str, PeftModel],
    method: MajoritySignMethod,
) -> None:
    deltas = [in_numpy(peft_deltas(model)) for model in parts.values()]
    oracle = copy.deepcopy(base)
    for module in deltas[0] | deltas[1]:
        found = [
            (trim(delta[module], 0.5), weight)
            for delta, weight in zip(deltas, WEIGHTS, strict=True)
            if module in delta
        ]
        merged = elect_and_average([d for d, _ in found], [w for _, w in found], method.value)
        oracle.get_parameter(f"{module}.weight").data += torch.from_numpy(merged).float()
    check(model_folder, merge_of(parts, MergeStrategy.TIES, 0.5, method), oracle)


def test_a_merge_of_one_with_weight_one_is_that_adapter(
    model_folder: Path, parts: dict[str, PeftModel]
) -> None:
    ref = adapter_ref(Path(next(iter(parts))))
    (prompt,) = prompts(1, seed=8, low=8)
    with LocalEngine(model_folder) as engine:
        got = engine.generate(
            request("plain", prompt, ref), request("merged", prompt, MergedAdapters((ref,), (1.0,)))
        )
    assert got["merged"].token_ids == got["plain"].token_ids


def test_a_merge_that_cannot_be_fails_its_requests_alone(
    model_folder: Path, base: torch.nn.Module, parts: dict[str, PeftModel], tmp_path: Path
) -> None:
    build_adapter(tmp_path / "wide", base, rank=16, targets=["q_proj"], seed=9)
    build_adapter(tmp_path / "spoilt", base, rank=4, targets=["q_proj"])
    edit_tensors(tmp_path / "spoilt", lambda tensors: {k: v / 0 for k, v in tensors.items()})
    good = adapter_ref(Path(list(parts)[1]))
    wide, spoilt = (adapter_ref(tmp_path / name) for name in ("wide", "spoilt"))
    (prompt,) = prompts(1, seed=8, low=8)
    with LocalEngine(model_folder, max_adapter_rank=16) as engine:
        got = engine.generate(
            request("too wide", prompt, MergedAdapters((good, wide), (1.0, 1.0))),
            request("a part spoilt", prompt, MergedAdapters((good, spoilt), (1.0, 1.0))),
            request("well", prompt, good),
        )
        assert engine.parts.exchange.pool.num_resident == 1
    assert len(got["well"].token_ids) == NUM_TOKENS
    failure = got["too wide"].failure
    assert failure.code is ErrorCode.ADAPTER_TOO_LARGE
    assert "'b,wide'" in failure.message
    assert "needs rank 25" in failure.message
    failure = got["a part spoilt"].failure
    assert failure.code is ErrorCode.ADAPTER_NOT_FINITE
    assert "'spoilt'" in failure.message
