import torch

from lorax_serve.kernels.activation import silu_mul


def test_silu_mul_is_gate_times_sigmoid_times_up() -> None:
    gate_up = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    before = gate_up.clone()
    gate, up = gate_up[:, :12].double(), gate_up[:, 12:].double()
    expected = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(silu_mul(gate_up).double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(gate_up, before)
