"""The torch backend: what it plans, and that it is the planned attention."""

import pytest
import torch

from attention_cases import AttentionCase, Shape
from lorax_serve.kernels.torch_attention import TorchAttention

STEP = [(1, 30), (1, 5), (7, 20)]


@pytest.mark.parametrize("window", [None, 6])
def test_it_equals_the_definition(window: int | None) -> None:
    AttentionCase.of(Shape(), STEP, torch.device("cpu")).check(TorchAttention(), window)


def test_a_window_is_planned_once_a_step() -> None:
    case = AttentionCase.of(Shape(), STEP, torch.device("cpu"))
    attend = TorchAttention().bind(case.batch, case.cache)
    assert not attend.plans
    for window in (None, 6, None, 6):
        attend(case.q, case.cache, scale=0.3, sliding_window=window)
    plans = dict(attend.plans)
    assert set(plans) == {None, 6}
    attend(case.q, case.cache, scale=0.3, sliding_window=6)
    assert attend.plans[6] is plans[6]
