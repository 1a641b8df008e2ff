"""SmolLM2 and the demo adapters against transformers and PEFT: exact greedy tokens in fp32."""

import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from live_server import ADAPTERS
from local_engine import LocalEngine, collect, greedy
from oracles import is_greedy
from peft_adapters import edit_tensors

NUM_TOKENS = 64
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about autumn.",
    "Explain photosynthesis to a child.",
    "List three uses of a paperclip.",
    "Who wrote Hamlet?",
    "What is 17 plus 25?",
    "Translate 'good morning' into Spanish.",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Summarise the story of Cinderella in one sentence.",
    "def fibonacci(n):",
    "My order number 48213 has not arrived yet.",
    "Name a famous painter and one of their works.",
    "Is a tomato a fruit?",
    "Über den Wolken muss die Freiheit wohl grenzenlos sein. Was heißt das?",
    "How do magnets work?",
    "Tell me a joke about computers.",
    "The app crashes when I log in. Please help.",
    "What should I pack for a week in the mountains?",
    "Describe the sea at night. 🌊",
)
ADAPTER_NAMES = sorted(path.parent.name for path in ADAPTERS.glob("*/adapter_config.json"))


@pytest.fixture(scope="module")
def prompts(demo_model: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )
        for question in QUESTIONS
    ]


@pytest.fixture(scope="module")
def base(demo_model: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(demo_model: Path) -> Iterator[LocalEngine]:
    options = {"kv_cache_bytes": 256 * 2**20, "adapter_pool_bytes": 256 * 2**20}
    with LocalEngine(demo_model, **options) as running:
        yield running


def test_base_tokens_equal_transformers(
    engine: LocalEngine, base: torch.nn.Module, prompts: list[list[int]]
) -> None:
    requests = [greedy(str(i), p, num_tokens=NUM_TOKENS) for i, p in enumerate(prompts)]
    got = engine.generate(*requests)
    for index, prompt in enumerate(prompts):
        tokens = got[str(index)].token_ids
        assert len(tokens) == NUM_TOKENS
        assert is_greedy(base, prompt, tokens), QUESTIONS[index]


def test_adapter_tokens_equal_peft_in_one_mixed_batch(
    engine: LocalEngine, base: torch.nn.Module, demo_model: Path, prompts: list[list[int]]
) -> None:
    cases = [(name, index) for name in ADAPTER_NAMES for index in (0, 7, 11, 14)]
    requests = [
        greedy(f"{name} {i}", prompts[i], num_tokens=NUM_TOKENS, adapter=ADAPTERS / name)
        for name, i in cases
    ]
    base_request = greedy("base", prompts[0], num_tokens=NUM_TOKENS)
    got = engine.generate(*requests, base_request)
    assert is_greedy(base, prompts[0], got["base"].token_ids)
    model = peft_model(demo_model, [ADAPTERS / name for name in ADAPTER_NAMES])
    for name in ADAPTER_NAMES:
        model.set_adapter(name)
        for index in (i for adapter, i in cases if adapter == name):
            tokens = got[f"{name} {index}"].token_ids
            assert len(tokens) == NUM_TOKENS
            assert is_greedy(model, prompts[index], tokens), (name, QUESTIONS[index])
            assert not is_greedy(base, prompts[index], tokens)


@pytest.mark.slow
def test_adapter_tokens_equal_peft_alone(
    engine: LocalEngine, base: torch.nn.Module, demo_model: Path, prompts: list[list[int]]
) -> None:
    folders = [ADAPTERS / name for name in ADAPTER_NAMES]
    model = peft_model(demo_model, folders)
    for name, prompt in zip(ADAPTER_NAMES, prompts[1:], strict=False):
        request = greedy("alone", prompt, num_tokens=NUM_TOKENS, adapter=ADAPTERS / name)
        tokens = engine.generate(request)["alone"].token_ids
        model.set_adapter(name)
        assert len(tokens) == NUM_TOKENS
        assert is_greedy(model, prompt, tokens), name
        assert not is_greedy(base, prompt, tokens), name


@pytest.mark.slow
def test_sixteen_adapters_that_arrive_at_random_equal_peft(
    engine: LocalEngine, demo_model: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    """The demo adapters, and more made of them by scaling, so that no two are the same."""
    folders = [ADAPTERS / name for name in ADAPTER_NAMES]
    for index in range(16 - len(folders)):
        folder = tmp_path / f"scaled-{index}"
        shutil.copytree(folders[index % len(ADAPTER_NAMES)], folder)
        edit_tensors(folder, partial(scaled, factor=0.7 + 0.05 * index))
        folders.append(folder)
    rng = random.Random(11)
    arrivals = sorted((rng.randrange(50), index) for index in range(len(folders)))
    for now in range(50):
        for _, index in (arrival for arrival in arrivals if arrival[0] == now):
            folder, prompt = folders[index], prompts[index]
            engine.submit(greedy(folder.name, prompt, num_tokens=NUM_TOKENS, adapter=folder))
        engine.step()
    engine.run_until_idle()
    got = collect(engine.take_events())
    model = peft_model(demo_model, folders)
    for folder, prompt in zip(folders, prompts, strict=False):
        tokens = got[folder.name].token_ids
        model.set_adapter(folder.name)
        assert len(tokens) == NUM_TOKENS
        assert is_greedy(model, prompt, tokens), folder.name


def peft_model(demo_model: Path, folders: Sequence[Path]) -> PeftModel:
    """One model that holds all these adapters, each by its folder's name."""
    fresh = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(fresh, folders[0], adapter_name=folders[0].name)
    for folder in folders[1:]:
        model.load_adapter(folder, adapter_name=folder.name)
    return model.eval()


def scaled(tensors: dict[str, torch.Tensor], *, factor: float) -> dict[str, torch.Tensor]:
    return {name: tensor * factor for name, tensor in tensors.items()}


def test_there_are_three_demo_adapters() -> None:
    assert len(ADAPTER_NAMES) == 3
