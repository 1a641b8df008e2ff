"""Logprobs of prompts on a GPU: those of transformers and PEFT, beside plain requests."""

from pathlib import Path

import msgspec
import pytest
import torch

from local_engine import LocalEngine, greedy
from lorax_serve.ipc.config import AttentionBackendName, Device, DType
from lorax_serve.ipc.types import RequestId, TokenLogprob
from oracles import prompts, reference_tokens
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

pytestmark = pytest.mark.gpu
NUM_TOP = 3


@pytest.mark.parametrize("attention", [AttentionBackendName.TRITON, AttentionBackendName.TORCH])
@pytest.mark.parametrize("targets", ["all-linear", ["lm_head", "q_proj"]], ids=["layers", "head"])
def test_prompt_logprobs_equal_transformers(
    attention: AttentionBackendName, targets: object, tmp_path: Path
) -> None:
    base = build_tiny_model("llama", tmp_path / "model")
    fresh = build_tiny_model("llama", tmp_path / "base")
    adapted = build_adapter(tmp_path / "adapter", fresh, rank=16, targets=targets)
    texts = prompts(6, seed=21, low=2)
    oracles = {str(i): adapted if i % 2 else base for i in range(6)}
    requests = [
        msgspec.structs.replace(
            greedy(str(i), prompt, adapter=tmp_path / "adapter" if i % 2 else None),
            num_prompt_logprobs=NUM_TOP,
        )
        for i, prompt in enumerate(texts)
    ]
    plain = greedy("plain", texts[0], num_tokens=32)
    with LocalEngine(
        tmp_path / "model",
        device=Device.CUDA,
        dtype=DType.FLOAT32,
        attention_backend=attention,
        max_batch_tokens=48,
    ) as engine:
        got = engine.generate(plain, *requests)
        again = engine.generate(*requests)
    assert got["plain"].token_ids == reference_tokens(base, texts[0], 32)
    assert got["plain"].prompt_logprobs == []
    for name, oracle in oracles.items():
        prompt = texts[int(name)]
        for answers in (got, again):
            check(oracle, prompt, answers[name].prompt_logprobs)
            assert answers[name].token_ids == reference_tokens(oracle, prompt, 16)


def check(oracle: torch.nn.Module, prompt: list[int], entries: list[TokenLogprob]) -> None:
    with torch.inference_mode():
        rows = oracle(input_ids=torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
    assert len(entries) == len(prompt) - 1
    for row, token, entry in zip(rows, prompt[1:], entries, strict=True):
        assert entry.logprob == pytest.approx(row[token].item(), abs=1e-4)
        highest = row.topk(NUM_TOP).values.tolist()
        assert [value for _, value in entry.top] == pytest.approx(highest, abs=1e-4)


def test_branches_equal_separate_requests(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    (prompt,) = prompts(1, seed=13, low=40)
    seeded = [greedy(f"r{i}", prompt, temperature=1.0, seed=100 + i) for i in range(8)]
    tied = [
        seeded[0],
        *(msgspec.structs.replace(each, after=RequestId("r0")) for each in seeded[1:]),
    ]
    settings = {"device": Device.CUDA, "dtype": DType.FLOAT32, "block_size": 16}
    with LocalEngine(tmp_path, **settings, prefix_cache=False) as engine:
        alone = {r.request_id: engine.generate(r)[r.request_id].token_ids for r in seeded}
    with LocalEngine(tmp_path, **settings) as engine:
        together = engine.generate(*tied)
    assert {name: answer.token_ids for name, answer in together.items()} == alone
    assert [together[f"r{i}"].num_cached_tokens for i in range(8)] == [0] + [
        (len(prompt) - 1) // 16 * 16
    ] * 7
