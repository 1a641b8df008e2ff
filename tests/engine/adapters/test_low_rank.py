"""The best low-rank factors, against numpy's and torch's full decompositions."""

import pytest
import torch

from lorax_serve.engine.adapters.low_rank import RankExceeded, factor, narrow
from merge_cases import best_error, relative_error

EXACT = 1e-5


def noisy(rows: int, columns: int, *, rank: int, noise: float, seed: int = 0) -> torch.Tensor:
    """A product of that rank plus noise on every element."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator)
    right = torch.randn(rank, columns, generator=generator)
    return left @ right + noise * torch.randn(rows, columns, generator=generator)


@pytest.mark.parametrize("shape", [(40, 40), (24, 90), (90, 24), (1, 30), (30, 1), (1, 1)])
@pytest.mark.parametrize("max_rank", [1, 7, 200])
def test_factors_are_the_best_of_their_rank(shape: tuple[int, int], max_rank: int) -> None:
    matrix = noisy(*shape, rank=5, noise=0.5)
    exact = matrix.double().numpy()
    got = factor(matrix.clone(), max_rank)
    assert got.a.shape == (got.rank, shape[1])
    assert got.b.shape == (shape[0], got.rank)
    assert got.rank == min(max_rank, *shape)
    error = relative_error((got.b.double() @ got.a.double()).numpy(), exact)
    assert error == pytest.approx(best_error(exact, got.rank), rel=1e-4, abs=EXACT)
    assert got.residual == pytest.approx(error, rel=1e-3, abs=EXACT)


def test_a_cut_is_the_product_torch_would_cut() -> None:
    matrix = noisy(60, 80, rank=12, noise=0.05)
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    expected = (u[:, :12] * s[:12]) @ v[:12]
    got = factor(matrix, 12)
    assert relative_error((got.b @ got.a).double().numpy(), expected.numpy()) < EXACT


def test_no_rank_is_spent_on_rounding() -> None:
    assert factor(noisy(300, 200, rank=9, noise=0.0), 64).rank == 9


def test_both_factors_are_of_the_same_size() -> None:
    """So that neither leaves float16's range before the other."""
    got = factor(noisy(50, 70, rank=4, noise=0.0) * 1e-4, 8)
    torch.testing.assert_close(got.a.norm(dim=1), got.b.norm(dim=0))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_nothing_is_rank_one_of_zeros(shape: tuple[int, int]) -> None:
    got = factor(torch.zeros(shape), 8)
    assert (got.rank, got.residual) == (1, 0.0)
    assert not (got.b @ got.a).any()
    assert not narrow(torch.zeros(9, 5), torch.zeros(5, 6), 3, 0.0).b.any()


@pytest.mark.parametrize("shape", [(700, 900), (900, 700)])
def test_large_matrices_come_within_a_hundredth_of_the_best(shape: tuple[int, int]) -> None:
    """Noise on every element decays slowly: the sketch's hardest case."""
    matrix = noisy(*shape, rank=20, noise=1.0)
    exact = matrix.double().numpy()
    got = factor(matrix.clone(), 32)
    assert got.residual <= 1.01 * best_error(exact, 32)
    error = relative_error((got.b.double() @ got.a.double()).numpy(), exact)
    assert got.residual == pytest.approx(error, rel=1e-3)
    again = factor(matrix.clone(), 32)
    assert torch.equal(got.a, again.a)
    assert torch.equal(got.b, again.b)


def test_large_matrices_of_low_rank_are_exact() -> None:
    matrix = noisy(1200, 1100, rank=10, noise=0.0)
    got = factor(matrix.clone(), 64)
    assert got.rank == 10
    assert relative_error((got.b @ got.a).numpy(), matrix.numpy()) < EXACT


def factors(rank: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(50, rank, generator=generator), torch.randn(rank, 70, generator=generator)


def test_a_product_that_repeats_itself_is_narrowed_exactly() -> None:
    b, a = factors(10)
    got = narrow(torch.cat([b, 3 * b], 1), torch.cat([a, a]), 12, 1e-3)
    assert got.rank == 10
    assert got.residual < 1e-6
    assert relative_error((got.b @ got.a).numpy(), (4 * b @ a).numpy()) < EXACT


@pytest.mark.parametrize("rank", [8, 60, 200])  # 60 and 200: wider than the outputs
def test_a_product_says_which_rank_it_needs(rank: int) -> None:
    b, a = factors(rank)
    with pytest.raises(RankExceeded) as caught:
        narrow(b, a, 5, 1e-3)
    needed = caught.value.needed_rank
    exact = (b.double() @ a.double()).numpy()
    assert best_error(exact, needed) <= 1e-3 < best_error(exact, needed - 1)
    got = narrow(b, a, needed, 1e-3)
    assert got.residual == pytest.approx(best_error(exact, needed), rel=1e-4, abs=1e-8)


def test_what_lies_below_the_tolerance_is_cut() -> None:
    b, a = factors(6)
    small_b, small_a = factors(3, seed=1)
    wide = (torch.cat([b, 1e-4 * small_b], 1), torch.cat([a, small_a]))
    got = narrow(*wide, 6, 1e-3)
    exact = (wide[0].double() @ wide[1].double()).numpy()
    assert got.rank == 6
    assert 0 < got.residual < 1e-3
    assert got.residual == pytest.approx(best_error(exact, 6), rel=1e-3)
    with pytest.raises(RankExceeded):
        narrow(*wide, 6, got.residual / 2)
