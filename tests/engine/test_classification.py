"""What adapters' classification heads say equals transformers and PEFT, in any company."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from local_engine import Generated, LocalEngine, greedy
from local_engine import pooling_request as pooling
from lorax_serve.engine.labelled_prompt import LabelledPrompt
from lorax_serve.ipc.messages import Pool, PromptPooled
from lorax_serve.ipc.types import ErrorCode, HeadKind, Pooling
from oracles import prompts
from peft_adapters import build_adapter
from peft_heads import build_head_adapter, reference_probabilities
from tiny_models import build_tiny_model

CASES = {
    "sentiment": (HeadKind.SEQUENCE, 2),
    "topics": (HeadKind.SEQUENCE, 7),
    "reward": (HeadKind.SEQUENCE, 1),
    "entities": (HeadKind.TOKEN, 5),
    "spans": (HeadKind.TOKEN, 1),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with the base in model/ and adapters beside it; the adapters' oracles."""
    root = tmp_path_factory.mktemp("heads")
    base = build_tiny_model("qwen3", root / "model")
    build_adapter(root / "plain", base, rank=4)
    oracles = {
        name: build_head_adapter(
            root / name, root / "model", kind, num_labels=number, rank=2 + seed, seed=seed
        )
        for seed, (name, (kind, number)) in enumerate(CASES.items())
    }
    return root, oracles


def labels(root: Path, name: str, adapter: str, prompt: list[int]) -> Pool:
    return pooling(name, prompt, pooling=None, adapter=root / adapter)


def probabilities(answer: Generated) -> np.ndarray:
    (end,) = answer.ends
    assert isinstance(end, PromptPooled), end
    return np.frombuffer(end.vector, "<f4").reshape(-1, end.num_labels)


def test_probabilities_equal_peft_alone_and_beside_others(
    served: tuple[Path, dict[str, Any]],
) -> None:
    root, oracles = served
    texts = prompts(4, seed=41, low=2, high=50)
    requests = [
        labels(root, f"{name}{i}", name, text) for i, text in enumerate(texts) for name in oracles
    ]
    beside = [
        greedy("generates", texts[0], adapter=root / "plain"),
        pooling("vector", texts[1], pooling=Pooling.MEAN, adapter=root / "sentiment"),
    ]
    with LocalEngine(root / "model", max_batch_tokens=24) as engine:
        together = engine.generate(*beside, *requests)
        alone = {each.request_id: engine.generate(each)[each.request_id] for each in requests[:5]}
        engine.parts.exchange.check_integrity()
    assert len(together["generates"].token_ids) == 16
    assert len(together["vector"].vector) == 4 * engine.parts.info.hidden_size
    for i, text in enumerate(texts):
        for name, oracle in oracles.items():
            expected = reference_probabilities(oracle, text)
            answers = [together[f"{name}{i}"]]
            if f"{name}{i}" in alone:
                answers.append(alone[f"{name}{i}"])
            for answer in answers:
                assert answer.ends[0].head is CASES[name][0]
                got = probabilities(answer)
                assert got.shape == expected.shape
                assert got == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize("size", [0.0, 1.0, 40.0, 800.0, 1e30])
def test_a_single_label_is_the_logistic_function_however_large_its_logit(size: float) -> None:
    """Without a warning, which is an error in tests."""
    logits = torch.tensor([[-size], [size]], dtype=torch.float64)
    prompt = LabelledPrompt()
    prompt.add(logits.numpy(), first=0, num_rows=2)
    got = prompt.probabilities(HeadKind.TOKEN)
    assert got == pytest.approx(logits.sigmoid().numpy(), rel=1e-6)


def test_heads_come_and_go_with_their_adapters(served: tuple[Path, dict[str, Any]]) -> None:
    """Room for one or two on the device and the host: each is evicted, and read again."""
    root, oracles = served
    text = prompts(1, seed=42, low=10)[0]
    with LocalEngine(
        root / "model", adapter_pool_bytes=20_000, host_adapter_bytes=30_000
    ) as engine:
        for turn in range(2):
            for name, oracle in oracles.items():
                asked = labels(root, f"{name}{turn}", name, text)
                got = probabilities(engine.generate(asked)[asked.request_id])
                assert got == pytest.approx(reference_probabilities(oracle, text).numpy(), abs=1e-4)
        assert engine.parts.exchange.counts.num_copies > len(oracles)
        engine.parts.exchange.check_integrity()


def test_who_has_no_head_is_refused_and_who_has_one_does_not_generate(
    served: tuple[Path, dict[str, Any]],
) -> None:
    root, _ = served
    with LocalEngine(root / "model") as engine:
        got = engine.generate(
            labels(root, "plain", "plain", [5, 6]),
            pooling("base", [5, 6], pooling=None),
            greedy("generates", [5, 6], adapter=root / "topics"),
            labels(root, "fine", "topics", [5, 6]),
        )
        assert engine.parts.scheduler.num_running == 0
    assert got["plain"].failure.code is ErrorCode.ADAPTER_INCOMPATIBLE
    assert "has no classification head" in got["plain"].failure.message
    assert got["base"].failure.code is ErrorCode.UNSUPPORTED_PARAMETER
    assert got["generates"].failure.code is ErrorCode.ADAPTER_INCOMPATIBLE
    assert "does not generate" in got["generates"].failure.message
    assert probabilities(got["fine"]).sum() == pytest.approx(1, abs=1e-6)
