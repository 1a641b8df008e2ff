"""The bisection finds the key that sorting finds."""

import pytest
import torch

from devices import DEVICES
from lorax_serve.engine.sampling.ranking import mass_boundary_by_sorting, rank_keys
from lorax_serve.kernels.triton.mass_boundary import mass_boundary

MASSES = (1e-9, 0.5, 0.9)


def rows_with_ties(num_rows: int, vocab_size: int) -> torch.Tensor:
    """Scores [M, V] of which many are equal, some -inf."""
    generator = torch.Generator().manual_seed(vocab_size)
    scores = torch.randint(-20, 1, (num_rows, vocab_size), generator=generator).float() / 2
    scores[1] = torch.randn(vocab_size, generator=generator) * 3
    scores[:, ::7] = -torch.inf
    return scores - scores.amax(-1, keepdim=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("vocab_size", [1, 37, 300])
def test_bisection_equals_sorting(vocab_size: int, device: torch.device) -> None:
    check(rows_with_ties(2, vocab_size) if vocab_size > 1 else torch.zeros(2, 1), device)


@pytest.mark.gpu
def test_bisection_equals_sorting_over_a_large_vocabulary() -> None:
    check(rows_with_ties(4, 128256), torch.device("cuda"))


def check(scores: torch.Tensor, device: torch.device) -> None:
    keys, probs = rank_keys(scores.abs()), scores.softmax(-1)
    for wanted in MASSES:
        mass = torch.full((len(scores), 1), wanted, dtype=torch.float64)
        expected = mass_boundary_by_sorting(keys, probs, mass, 4096)
        got = mass_boundary(keys.to(device), probs.to(device), mass.to(device)).cpu()
        # Float sums in another order may end one token earlier or later: compare what is kept.
        kept = (probs * (keys <= got)).double().sum(-1)
        wanted_kept = (probs * (keys <= expected)).double().sum(-1)
        torch.testing.assert_close(kept, wanted_kept, rtol=0, atol=2e-4)
        if scores.shape[-1] <= 300:
            assert torch.equal(got, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_that_never_reaches_the_mass_keeps_everything(device: torch.device) -> None:
    keys = rank_keys(torch.tensor([[0.0, 2.0, 1.0]])).to(device)
    probs = torch.tensor([[0.5, 0.1, 0.3]], device=device)
    last = mass_boundary(keys, probs, torch.tensor([[0.99]], dtype=torch.float64, device=device))
    assert bool((keys <= last).all())
