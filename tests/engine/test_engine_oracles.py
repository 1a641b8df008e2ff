"""The whole engine against transformers and PEFT: exact greedy tokens, alone and in company."""

import random
from pathlib import Path

import pytest
import torch

from local_engine import LocalEngine, collect, greedy
from oracles import is_greedy, prompts, reference_tokens
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

NUM_TOKENS = 64
ADAPTERS = {
    "rank-1": {"rank": 1},
    "rank-4": {"rank": 4, "targets": ["q_proj", "v_proj"]},
    "rank-8": {"rank": 8, "targets": "all-linear"},
    "rank-16": {"rank": 16, "targets": ["down_proj", "gate_proj"]},
    "rank-64": {"rank": 64},
    "rank-100": {"rank": 100, "targets": ["o_proj", "up_proj"]},
    "rslora": {"rank": 8, "use_rslora": True, "lora_alpha": 4},
    "rank-pattern": {"rank": 8, "rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5}},
    "alpha-pattern": {"rank": 8, "alpha_pattern": {"v_proj": 2, "layers.0.self_attn.q_proj": 40}},
    "regex": {"rank": 4, "targets": r".*\.layers\.\d+\.(self_attn\.[qk]|mlp\.down)_proj"},
    "one-layer": {"rank": 8, "layers_to_transform": [1]},
    "lm-head": {"rank": 8, "targets": ["lm_head", "q_proj"]},
    "only-head": {"rank": 4, "targets": ["lm_head"]},
    "qkv": {"rank": 12, "targets": ["q_proj", "k_proj", "v_proj"]},
    "mlp": {"rank": 6, "targets": ["gate_proj", "up_proj", "down_proj"]},
    "fan-in-fan-out": {"rank": 4, "edited_config": {"fan_in_fan_out": True}},
}

FAMILIES = (
    "llama_untied",
    "llama_biases",
    "qwen2",
    "qwen2_sliding",
    "qwen3",
    "qwen3_biases",
    "mistral_sliding",
)
FAMILY_ADAPTERS = {
    name: ADAPTERS[name] for name in ("rank-1", "rank-8", "rank-100", "qkv", "lm-head")
}


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("model")
    return folder, build_tiny_model("llama", folder)


def test_base_tokens_equal_transformers_alone_and_together(
    tiny_llama: tuple[Path, torch.nn.Module],
) -> None:
    folder, model = tiny_llama
    texts = prompts(8, seed=1)
    expected = {str(i): reference_tokens(model, p, NUM_TOKENS) for i, p in enumerate(texts)}
    requests = [greedy(str(i), p, num_tokens=NUM_TOKENS) for i, p in enumerate(texts)]
    with LocalEngine(folder, max_batch_tokens=48, max_num_sequences=8) as engine:
        together = engine.generate(*requests)
        assert {name: got.token_ids for name, got in together.items()} == expected
        alone = {r.request_id: engine.generate(r)[r.request_id].token_ids for r in requests}
        assert alone == expected


@pytest.fixture(scope="module")
def adapters(
    tiny_llama: tuple[Path, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, list[int], list[int]]]:
    """Per adapter: its folder, a prompt, and PEFT's greedy continuation of it."""
    root = tmp_path_factory.mktemp("adapters")
    texts = prompts(len(ADAPTERS), seed=2, low=4)
    built = {}
    for (name, options), prompt in zip(ADAPTERS.items(), texts, strict=True):
        model = build_tiny_model("llama", tmp_path_factory.mktemp("base"))
        peft_model = build_adapter(root / name, model, **options)
        built[name] = (root / name, prompt, reference_tokens(peft_model, prompt, NUM_TOKENS))
    return built


def test_the_adapters_really_change_the_tokens(
    tiny_llama: tuple[Path, torch.nn.Module],
    adapters: dict[str, tuple[Path, list[int], list[int]]],
) -> None:
    _, model = tiny_llama
    for name, (_, prompt, expected) in adapters.items():
        assert reference_tokens(model, prompt, NUM_TOKENS) != expected, name


def test_adapter_tokens_equal_peft_alone(
    tiny_llama: tuple[Path, torch.nn.Module],
    adapters: dict[str, tuple[Path, list[int], list[int]]],
) -> None:
    with LocalEngine(tiny_llama[0]) as engine:
        for name, (folder, prompt, expected) in adapters.items():
            request = greedy(name, prompt, num_tokens=NUM_TOKENS, adapter=folder)
            assert engine.generate(request)[name].token_ids == expected, name


@pytest.mark.parametrize("seed", range(3))
def test_adapter_tokens_equal_peft_in_a_batch_with_random_arrivals(
    tiny_llama: tuple[Path, torch.nn.Module],
    adapters: dict[str, tuple[Path, list[int], list[int]]],
    seed: int,
) -> None:
    rng = random.Random(seed)
    arrivals = sorted((rng.randrange(60), name) for name in adapters)
    with LocalEngine(tiny_llama[0], max_batch_tokens=40, max_num_sequences=20) as engine:
        now = 0
        while arrivals:
            while arrivals and arrivals[0][0] <= now:
                _, name = arrivals.pop(0)
                folder, prompt, _ = adapters[name]
                engine.submit(greedy(name, prompt, num_tokens=NUM_TOKENS, adapter=folder))
            engine.step()
            now += 1
        engine.run_until_idle()
        results = collect(engine.take_events())
    assert {name: got.token_ids for name, got in results.items()} == {
        name: expected for name, (_, _, expected) in adapters.items()
    }


@pytest.mark.parametrize("variant", FAMILIES)
def test_every_family_equals_peft_alone_and_together(variant: str, tmp_path: Path) -> None:
    base = build_tiny_model(variant, tmp_path / "model")
    models: dict[str, torch.nn.Module] = {"base": base}
    for seed, (name, options) in enumerate(FAMILY_ADAPTERS.items()):
        models[name] = build_adapter(tmp_path / name, base, seed=seed, **options)
    texts = dict(zip(models, prompts(len(models), seed=4, low=10), strict=True))
    requests = [
        greedy(name, prompt, num_tokens=NUM_TOKENS, adapter=_folder(tmp_path / name))
        for name, prompt in texts.items()
    ]
    with LocalEngine(tmp_path / "model", max_batch_tokens=40, max_num_sequences=8) as engine:
        alone = {r.request_id: engine.generate(r)[r.request_id].token_ids for r in requests}
        together = engine.generate(*requests)
    for name, prompt in texts.items():
        assert len(alone[name]) == NUM_TOKENS
        assert is_greedy(models[name], prompt, alone[name]), name
        assert together[name].token_ids == alone[name], name
        assert name == "base" or not is_greedy(base, prompt, alone[name]), name


def _folder(adapter: Path) -> Path | None:
    return None if adapter.name == "base" else adapter


def test_logprobs_are_the_raw_log_softmax(tiny_llama: tuple[Path, torch.nn.Module]) -> None:
    folder, model = tiny_llama
    (prompt,) = prompts(1, seed=3, low=10)
    request = greedy("r", prompt, temperature=0.7, top_k=3, seed=5, num_logprobs=4)
    with LocalEngine(folder) as engine:
        got = engine.generate(request)["r"]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + got.token_ids])).logits[0].float()
    expected = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    for row, token, logprob in zip(expected, got.token_ids, got.logprobs, strict=True):
        assert logprob.logprob == pytest.approx(row[token].item(), abs=1e-4)
        values, ids = row.topk(4)
        assert [token_id for token_id, _ in logprob.top] == ids.tolist()
        assert [value for _, value in logprob.top] == pytest.approx(values.tolist(), abs=1e-4)
