"""A matrix, or a product too wide, as the best product of two narrow factors.

Best in the Frobenius norm, which is what cutting the singular value decomposition gives (Eckart and
Young 1936). Deterministic: what is random draws from a fixed seed. Matrices must be finite.

Legend: O output features, I input features, R rank of the product as given, k rank of the result.
"""

from dataclasses import dataclass

import torch

# A rest below this share of the whole is rounding of float32, not content: no rank is spent on it.
NEGLIGIBLE = 1e-6
# Up to this height the decomposition is computed in full; above, from a random sketch.
_MAX_EXACT_ROWS = 512
_OVERSAMPLING = 16
_POWER_ITERATIONS = 3


class RankExceeded(Exception):
    """A product cannot be narrowed as far as asked within the tolerance."""

    def __init__(self, needed_rank: int) -> None:
        super().__init__(f"it takes rank {needed_rank}")
        self.needed_rank = needed_rank


@dataclass(frozen=True, slots=True)
class LowRank:
    """`b @ a`, and how far that is from what was asked for."""

    a: torch.Tensor  # [k, I], float32
    b: torch.Tensor  # [O, k], float32
    residual: float  # norm of the difference / norm of what was asked for; 0 where exact

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def factor(matrix: torch.Tensor, max_rank: int) -> LowRank:
    """The best approximation of `matrix` [O, I] of rank `max_rank` or less; overwrites it.

    Where a lower rank leaves only a negligible rest, it is taken. Exact up to 512 rows or columns;
    above, by a randomized range finder with power iterations (Halko, Martinsson and Tropp 2009,
    https://arxiv.org/abs/0909.4061, algorithms 4.4 and 5.1).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.t() if tall else matrix
    if wide.shape[0] <= _MAX_EXACT_ROWS:
        left, right = _truncate(wide, max_rank)
    else:
        left, right = _truncate_sketched(wide, max_rank)
    b, a = (right.t(), left.t()) if tall else (left, right)
    norm = matrix.norm()
    rest = matrix.addmm_(b, a, alpha=-1).norm()
    return LowRank(a, b, float(rest / norm) if norm > 0 else 0.0)


def narrow(b: torch.Tensor, a: torch.Tensor, max_rank: int, tolerance: float) -> LowRank:
    """The best approximation of `b @ a` ([O, R], [R, I]) of rank `max_rank` or less.

    Never forms the product: QR of both factors leaves an R x R core to decompose, in float64.
    Raises RankExceeded when the residual would be above `tolerance`.
    """
    left, left_core = torch.linalg.qr(b.double())
    right, right_core = torch.linalg.qr(a.double().t())
    u, sizes, v_t = torch.linalg.svd(left_core @ right_core.t(), full_matrices=False)
    energies = sizes.square()
    needed = _rank_within(energies, tolerance)
    if needed > max_rank:
        raise RankExceeded(needed)
    rank = min(max_rank, _rank_within(energies, NEGLIGIBLE))
    root = sizes[:rank].sqrt()
    return LowRank(
        a=((root[:, None] * v_t[:rank]) @ right.t()).float(),
        b=(left @ (u[:, :rank] * root)).float(),
        residual=_rest(energies, rank),
    )


def _truncate(wide: torch.Tensor, max_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Left [rows, k] and right [k, columns] of the best approximation, equally large.

    From the eigenvectors of `wide @ wide^T`: in float64 squaring costs no digit that float32 had.
    """
    exact = wide.double()
    energies, vectors = torch.linalg.eigh(exact @ exact.t())
    energies, vectors = energies.flip(0).clamp(min=0), vectors.flip(1)
    rank = min(max_rank, _rank_within(energies, NEGLIGIBLE))
    root = energies[:rank].sqrt().sqrt()  # of the singular values
    left = vectors[:, :rank]
    # Dividing by a singular value of zero would make NaN of nothing.
    inverse = torch.where(root > 0, 1 / root, 0.0)
    return (left * root).float(), (inverse[:, None] * (left.t() @ exact)).float()


def _truncate_sketched(wide: torch.Tensor, max_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same within the span of a sketch that is a little wider than the result."""
    width = min(max_rank + _OVERSAMPLING, wide.shape[0])
    generator = torch.Generator().manual_seed(0)
    sketch = torch.randn(wide.shape[1], width, generator=generator)
    span = _orthonormal(wide @ sketch)
    for _ in range(_POWER_ITERATIONS):
        span = _orthonormal(wide @ _orthonormal(wide.t() @ span))
    left, right = _truncate(span.t() @ wide, max_rank)
    return span @ left, right


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    basis: torch.Tensor = torch.linalg.qr(columns).Q
    return basis


def _rank_within(energies: torch.Tensor, tolerance: float) -> int:
    """The fewest leading squared singular values that leave `tolerance` of the norm; one at least.

    energies [n], float64, in descending order.
    """
    tails = energies.flip(0).cumsum(0).flip(0)  # what begins at each of them
    num_above = int((tails > tolerance**2 * tails[0]).sum())
    return max(1, num_above)


def _rest(energies: torch.Tensor, rank: int) -> float:
    total = energies.sum()
    return float((energies[rank:].sum() / total).sqrt()) if total > 0 else 0.0
