"""The same engine on a GPU: the tokens of transformers and PEFT in fp32, and bf16 runs at all."""

from pathlib import Path

import pytest
import torch

from local_engine import LocalEngine, greedy
from lorax_serve.ipc.config import Device, DType
from oracles import prompts, reference_tokens
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

pytestmark = pytest.mark.gpu
NUM_TOKENS = 32


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3"])
def test_tokens_equal_transformers_and_peft(variant: str, tmp_path: Path) -> None:
    model = build_tiny_model(variant, tmp_path / "model")
    texts = prompts(6, seed=4, low=4)
    expected = {f"base {i}": reference_tokens(model, p, NUM_TOKENS) for i, p in enumerate(texts)}
    requests = [greedy(f"base {i}", p, num_tokens=NUM_TOKENS) for i, p in enumerate(texts)]
    for index, rank in enumerate((2, 16, 64)):
        fresh = build_tiny_model(variant, tmp_path / f"base {rank}")
        folder = tmp_path / f"rank-{rank}"
        adapted = build_adapter(folder, fresh, rank=rank)
        name, prompt = f"rank {rank}", texts[index]
        expected[name] = reference_tokens(adapted, prompt, NUM_TOKENS)
        requests.append(greedy(name, prompt, num_tokens=NUM_TOKENS, adapter=folder))
    options = {"device": Device.CUDA, "dtype": DType.FLOAT32, "max_batch_tokens": 64}
    with LocalEngine(tmp_path / "model", **options) as engine:
        got = engine.generate(*requests)
    assert {name: result.token_ids for name, result in got.items()} == expected


def test_bf16_gives_finite_logprobs_near_fp32(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path / "model")
    (prompt,) = prompts(1, seed=5, low=20)
    logprobs = {}
    for dtype in (DType.FLOAT32, DType.BFLOAT16):
        with LocalEngine(tmp_path / "model", device=Device.CUDA, dtype=dtype) as engine:
            request = greedy("r", prompt, num_tokens=1, num_logprobs=1)
            logprobs[dtype] = engine.generate(request)["r"].logprobs[0].logprob
    exact, rounded = (torch.tensor(value) for value in logprobs.values())
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
