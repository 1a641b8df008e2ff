"""What is decided before a GPU engine runs: graph sizes, the largest step, the attention."""

import importlib.util

import pytest
import torch

from lorax_serve.engine.cuda.attention_choice import choose_attention, default_block_size
from lorax_serve.engine.cuda.profile import largest_step
from lorax_serve.engine.cuda.step_arrays import StepShape
from lorax_serve.engine.cuda.step_graphs import graph_shapes
from lorax_serve.engine.device_defaults import StepLimits, step_limits
from lorax_serve.engine.errors import ModelRefused
from lorax_serve.ipc.config import AttentionBackendName, EngineConfig

FLASH, TRITON = AttentionBackendName.FLASH, AttentionBackendName.TRITON


def test_decodes_alone_have_graphs_up_to_the_largest_batch() -> None:
    def sizes(max_num_sequences: int) -> list[int]:
        shapes = graph_shapes(max_num_sequences, 8192)
        return [shape.num_decodes for shape in shapes if not shape.num_prompts]

    assert sizes(1) == [1]
    assert sizes(20) == [1, 2, 4, 8, 16, 20]
    assert sizes(256)[-2:] == [248, 256] and len(sizes(256)) == 35


def test_short_prompts_have_graphs_beside_any_number_of_decodes() -> None:
    shapes = graph_shapes(128, 8192)
    assert [shape.num_rows for shape in shapes] == sorted(shape.num_rows for shape in shapes)
    for num_decodes in (0, 1, 100, 128):
        for num_rows, padded_rows in ((2, 64), (64, 64), (65, 128), (512, 512)):
            needed = StepShape(num_decodes, 1, num_rows)
            smallest = next(shape for shape in shapes if shape.holds(needed))
            assert smallest.num_prompt_rows == padded_rows
    assert not any(shape.holds(StepShape(0, 1, 513)) for shape in shapes)
    assert not any(shape.holds(StepShape(129)) for shape in shapes)
    assert not any(shape.num_prompts for shape in graph_shapes(4, 32)), "no step is that large"


@pytest.mark.parametrize(("num", "tokens", "longest"), [(4, 64, 100), (4, 64, 20), (8, 8, 100)])
def test_the_largest_step_is_as_large_as_a_step_may_be(num: int, tokens: int, longest: int) -> None:
    step = largest_step(StepLimits(num, tokens), max_model_len=longest, block_size=16)
    assert len(step.scheduled) == len(step.sampling) == num
    assert step.num_tokens == min(tokens, num * longest)
    assert max(item.num_tokens for item in step.scheduled) <= longest
    counts = [item.num_tokens > 1 for item in step.scheduled]
    assert counts == sorted(counts), "decodes come first"
    assert all(len(item.block_table) * 16 >= item.num_tokens for item in step.scheduled)


def choose(wanted: AttentionBackendName, *, head_dim: int = 128) -> AttentionBackendName:
    return choose_attention(wanted, dtype=torch.bfloat16, head_dim=head_dim, block_size=None)


def test_flash_is_taken_where_it_is_installed_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose(AttentionBackendName.AUTO) is FLASH
    assert choose(TRITON) is TRITON
    assert choose(AttentionBackendName.AUTO, head_dim=80) is TRITON
    with pytest.raises(ModelRefused, match="head sizes"):
        choose(FLASH, head_dim=80)
    assert default_block_size(FLASH) % 256 == 0


def test_without_flash_there_is_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose(AttentionBackendName.AUTO) is TRITON
    with pytest.raises(ModelRefused, match="not installed"):
        choose(FLASH)


def test_limits_follow_the_device_and_leave_a_token_for_everybody() -> None:
    def limits(device: str, **options: int) -> StepLimits:
        config = EngineConfig(endpoint="", model_path="", **options)
        return step_limits(config, torch.device(device))

    assert limits("cpu") == StepLimits(64, 512)
    assert limits("cuda") == StepLimits(256, 8192)
    assert limits("cuda", max_batch_tokens=100) == StepLimits(100, 100)
    with pytest.raises(ModelRefused, match="every running request needs one token"):
        limits("cpu", max_batch_tokens=4, max_num_sequences=5)
