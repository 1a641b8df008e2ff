"""Logprobs of prompts against transformers and PEFT; branches against separate requests."""

from pathlib import Path

import msgspec
import pytest
import torch

from local_engine import Generated, LocalEngine, greedy
from lorax_serve.engine.sampling import prompt_logprobs
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import RequestId, TokenLogprob
from oracles import prompts
from peft_adapters import build_adapter
from tiny_models import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("model")
    return folder, build_tiny_model("llama", folder)


def scored(request: Generate, num_top: int) -> Generate:
    return msgspec.structs.replace(request, num_prompt_logprobs=num_top)


def check(
    oracle: torch.nn.Module, prompt: list[int], entries: list[TokenLogprob], num_top: int
) -> None:
    with torch.inference_mode():
        logits = oracle(input_ids=torch.tensor([prompt])).logits[0, :-1].float()
    expected = logits.log_softmax(-1)
    assert len(entries) == len(prompt) - 1
    for row, token, entry in zip(expected, prompt[1:], entries, strict=True):
        assert entry.logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert [value for _, value in entry.top] == pytest.approx(
            row.topk(num_top).values.tolist(), abs=1e-4
        )
        assert [row[i].item() for i, _ in entry.top] == pytest.approx(
            [value for _, value in entry.top], abs=1e-4
        )


@pytest.mark.parametrize("max_logits", [1, 1000, 2**23], ids=["row by row", "a few", "at once"])
def test_they_are_the_raw_log_softmax_whatever_is_sampled(
    model: tuple[Path, torch.nn.Module], max_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_logprobs, "_MAX_LOGITS", max_logits)
    folder, oracle = model
    texts = prompts(5, seed=11, low=2)
    requests = [
        scored(greedy(str(i), p, num_tokens=3, temperature=0.7, top_k=3, seed=i), i)
        for i, p in enumerate(texts)
    ]
    plain = greedy("plain", texts[0], num_tokens=3)
    with LocalEngine(folder, max_batch_tokens=16) as engine:
        got = engine.generate(plain, *requests)
        again = engine.generate(*requests)  # every prompt is in the prefix cache by now
    assert got["plain"].prompt_logprobs == []
    for index, prompt in enumerate(texts):
        check(oracle, prompt, got[str(index)].prompt_logprobs, index)
        check(oracle, prompt, again[str(index)].prompt_logprobs, index)
        assert got[str(index)].token_ids == again[str(index)].token_ids


@pytest.mark.parametrize("targets", ["all-linear", ["lm_head", "q_proj"]], ids=["layers", "head"])
def test_those_of_an_adapter_are_its_own(
    model: tuple[Path, torch.nn.Module], targets: object, tmp_path: Path
) -> None:
    folder, base = model
    fresh = build_tiny_model("llama", tmp_path / "base")
    oracle = build_adapter(tmp_path / "adapter", fresh, rank=8, targets=targets)
    texts = prompts(2, seed=12, low=10)
    with LocalEngine(folder, max_batch_tokens=24) as engine:
        got = engine.generate(
            scored(greedy("adapted", texts[0], adapter=tmp_path / "adapter"), 2),
            scored(greedy("base", texts[1]), 2),
        )
    check(oracle, texts[0], got["adapted"].prompt_logprobs, 2)
    check(base, texts[1], got["base"].prompt_logprobs, 2)


def test_branches_equal_separate_requests(model: tuple[Path, torch.nn.Module]) -> None:
    """Same seeds, same tokens; and all branches together compute the prompt once."""
    folder, _ = model
    (prompt,) = prompts(1, seed=13, low=40)
    seeded = [
        greedy(f"r{i}", prompt, temperature=1.0, seed=100 + i, num_logprobs=1) for i in range(8)
    ]
    with LocalEngine(folder, prefix_cache=False) as engine:
        alone = {r.request_id: engine.generate(r)[r.request_id] for r in seeded}
    tied = [
        seeded[0],
        *(msgspec.structs.replace(each, after=RequestId("r0")) for each in seeded[1:]),
    ]
    with LocalEngine(folder, max_num_sequences=5) as engine:
        together = engine.generate(*tied)
        block_size = engine.parts.info.block_size
    cached = (len(prompt) - 1) // block_size * block_size
    for name, answer in alone.items():
        assert answer.token_ids == together[name].token_ids
        assert _values(together[name]) == pytest.approx(_values(answer), abs=1e-5)
        assert together[name].num_cached_tokens == (0 if name == "r0" else cached)
    assert len({tuple(answer.token_ids) for answer in alone.values()}) > 1


def _values(answer: Generated) -> list[float]:
    return [entry.logprob for entry in answer.logprobs]
