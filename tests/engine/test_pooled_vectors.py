"""Vectors of pooled prompts equal those of transformers and PEFT; devices' results read alike."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from local_engine import LocalEngine, greedy
from local_engine import pooling_request as pooling
from lorax_serve.engine.cuda.launched_step import CudaStep, StepResults
from lorax_serve.engine.pooled_prompt import PooledPrompt
from lorax_serve.engine.prompt_rows import prompt_rows
from lorax_serve.engine.runner import Runner
from lorax_serve.engine.step import Step
from lorax_serve.ipc.messages import Pool
from lorax_serve.ipc.types import Pooling
from oracles import prompts, reference_vector
from peft_adapters import build_adapter
from tiny_models import VARIANTS, build_tiny_model

BOTH = list(Pooling)


def _vector(answer: Any) -> np.ndarray:
    assert len(answer.ends) == 1
    return np.frombuffer(answer.vector, "<f4")


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_equal_transformers_in_chunks_and_beside_others(
    variant: str, tmp_path: Path
) -> None:
    oracle = build_tiny_model(variant, tmp_path)
    texts = prompts(6, seed=31, high=60)
    requests = [
        pooling(f"{how.value}{i}", text, pooling=how)
        for i, text in enumerate(texts)
        for how in BOTH
    ]
    with LocalEngine(tmp_path, max_batch_tokens=24) as engine:
        assert engine.parts.info.hidden_size == oracle.config.hidden_size
        together = engine.generate(greedy("beside", texts[0]), *requests)
        again = engine.generate(*requests)  # where it may, it takes prompts from the cache
    assert len(together["beside"].token_ids) == 16
    for i, text in enumerate(texts):
        for how in BOTH:
            expected = reference_vector(oracle, text, how)
            for answers in (together, again):
                got = _vector(answers[f"{how.value}{i}"])
                assert np.linalg.norm(got) == pytest.approx(1, abs=1e-6)
                assert got == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3"])
def test_vectors_of_adapters_equal_peft(variant: str, tmp_path: Path) -> None:
    base = build_tiny_model(variant, tmp_path / "model")
    oracles: dict[str, torch.nn.Module] = {"": base}
    for name, rank in (("a", 4), ("b", 16)):
        fresh = build_tiny_model(variant, tmp_path / f"base-{name}")
        oracles[name] = build_adapter(tmp_path / name, fresh, rank=rank)
    texts = prompts(2, seed=32, low=20)
    asked: dict[str, Pool] = {}
    for number, text in enumerate(texts):
        for how in BOTH:
            for name in oracles:
                adapter = tmp_path / name if name else None
                key = f"{name}-{number}-{how.value}"
                asked[key] = pooling(key, text, pooling=how, adapter=adapter)
    with LocalEngine(tmp_path / "model", max_batch_tokens=32) as engine:
        together = engine.generate(*asked.values())
    for key, answer in together.items():
        name, number, how = key.split("-")
        expected = reference_vector(oracles[name], texts[int(number)], Pooling(how))
        assert _vector(answer) == pytest.approx(expected, abs=1e-4)
    far = _vector(together["a-0-last"]) - _vector(together["-0-last"])
    assert np.abs(far).max() > 1e-2, "the adapter changes nothing"


def test_an_adapter_trained_without_the_head_equals_peft(tmp_path: Path) -> None:
    """On AutoModel, as is usual for embeddings: its names lack `model.`."""
    build_tiny_model("qwen3", tmp_path / "model")
    fresh = build_tiny_model("qwen3", tmp_path / "base")
    oracle = build_adapter(
        tmp_path / "a", fresh.model, targets=["q_proj", "down_proj"], task_type="FEATURE_EXTRACTION"
    )
    texts = prompts(2, seed=34, low=20)
    asked = [
        pooling(f"{how.value}{i}", text, pooling=how, adapter=tmp_path / "a")
        for i, text in enumerate(texts)
        for how in BOTH
    ]
    with LocalEngine(tmp_path / "model", max_batch_tokens=32) as engine:
        got = engine.generate(*asked)
    for i, text in enumerate(texts):
        for how in BOTH:
            expected = reference_vector(oracle, text, how)
            assert _vector(got[f"{how.value}{i}"]) == pytest.approx(expected, abs=1e-4)


def test_company_and_chunks_do_not_show(tmp_path: Path) -> None:
    """On a CPU not in the last bit but one: sums over chunks are as good as exact."""
    build_tiny_model("llama", tmp_path)
    texts = prompts(8, seed=33, low=30)
    asked = [pooling(str(i), text, pooling=BOTH[i % 2]) for i, text in enumerate(texts)]
    with LocalEngine(tmp_path, max_batch_tokens=512, prefix_cache=False) as engine:
        alone = [_vector(engine.generate(each)[each.request_id]) for each in asked]
    with LocalEngine(tmp_path, max_batch_tokens=17, max_num_sequences=5) as engine:
        together = engine.generate(*asked, *(greedy(f"g{i}", texts[i]) for i in range(4)))
    for i, vector in enumerate(alone):
        assert _vector(together[str(i)]) == pytest.approx(vector, abs=1e-5)


class _Device:
    """What a GPU's runner does for its steps, without a GPU: results are copied when they are read.

    In place of the CPU's `launch`, with its own logits and states.
    """

    def __init__(self) -> None:
        self.num_read = 0
        self._launch = Runner.launch

    def launch(self, runner: Runner, step: Step) -> CudaStep:
        computed = self._launch(runner, step)
        return CudaStep(self, step, computed.logits, computed.scores, computed.rows)

    def keep(self, step: Step, token_ids: torch.Tensor) -> None:
        assert len(token_ids) == len(step.sampling)

    def fetch(self, results: StepResults) -> tuple[StepResults, Any]:
        return results.to_host(), self

    def synchronize(self) -> None:
        self.num_read += 1


def test_the_results_of_a_devices_steps_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tiny_model("llama", tmp_path)
    texts = prompts(4, seed=35, low=10)
    asked = [pooling(str(i), text, pooling=BOTH[i % 2]) for i, text in enumerate(texts)]
    scored = msgspec.structs.replace(greedy("scored", texts[0]), num_prompt_logprobs=1)
    with LocalEngine(tmp_path, max_batch_tokens=24) as engine:
        expected = engine.generate(*asked, scored)
    device = _Device()
    monkeypatch.setattr(Runner, "launch", lambda runner, step: device.launch(runner, step))
    with LocalEngine(tmp_path, max_batch_tokens=24) as engine:
        got = engine.generate(*asked, scored)
    assert device.num_read > 0
    for name, each in expected.items():
        assert got[name].vector == each.vector
        assert got[name].token_ids == each.token_ids
        assert got[name].prompt_logprobs == each.prompt_logprobs


@pytest.mark.parametrize("num_padded", [0, 3])
def test_rows_are_found_behind_the_padding(num_padded: int) -> None:
    """One row of a decode, padding as in a graph's shape, then a prompt's rows."""
    hidden = torch.arange(24.0).view(8, 3)
    pooled = SimpleNamespace(pooled=PooledPrompt(Pooling.MEAN))
    items = [
        SimpleNamespace(num_tokens=n, num_pooled=p, sequence=pooled, adapter_slot=0)
        for n, p in ((1, 1), (2, 1), (2, 2))
    ]
    step: Any = SimpleNamespace(scheduled=items, num_decodes=1, pooling=items)
    rows = prompt_rows(step, hidden, lambda slot: None, num_padded=num_padded)
    first, second, third = rows.read(step)
    at = 1 + num_padded
    assert first == pytest.approx(hidden[0].numpy())
    assert second == pytest.approx(hidden[at + 1].numpy())
    assert third == pytest.approx((hidden[at + 2] + hidden[at + 3]).numpy())
