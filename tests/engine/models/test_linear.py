import pytest
import torch

from lorax_serve.engine.models.linear import Linear, WeightLayout, empty_weight
from lorax_serve.kernels.lora import LoraSite, LoraTarget

SITE = LoraSite(index=3, in_features=6, targets=(LoraTarget("a.b", 0, 10),))


class _Recorder:
    """Adds one, and remembers what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, LoraSite]] = []

    def shrink(self, x: torch.Tensor, site: LoraSite) -> "_Recorder":
        self.calls.append((x, site))
        return self

    def expand_into(self, y: torch.Tensor) -> None:
        y += 1.0


@pytest.mark.parametrize("layout", WeightLayout)
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_layout_does_not_change_the_product(layout: WeightLayout, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    oracle = torch.nn.Linear(6, 10, bias=has_bias)
    weight = empty_weight(10, 6, layout=layout, dtype=torch.float32, device=torch.device("cpu"))
    weight.copy_(oracle.weight.detach())
    assert weight.shape == (10, 6)
    assert weight.is_contiguous() == (layout is WeightLayout.ROW_MAJOR)
    assert weight.t().is_contiguous() == (layout is WeightLayout.TRANSPOSED)
    x = torch.randn(5, 6, generator=generator)
    with torch.inference_mode():
        torch.testing.assert_close(Linear(weight, oracle.bias, SITE)(x, None), oracle(x))


def test_adapters_add_at_the_site_to_the_output() -> None:
    linear = Linear(torch.zeros(10, 6), torch.full((10,), 2.0), SITE)
    x, lora = torch.ones(4, 6), _Recorder()
    assert torch.equal(linear(x, lora), torch.full((4, 10), 3.0))
    [(seen, site)] = lora.calls
    assert seen is x
    assert site is SITE
