"""Keys order as (cost, id); the boundary of a mass does not depend on how it is searched."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.sampling.ranking import ID_BITS, mass_boundary, rank_keys

costs = st.lists(
    st.one_of(
        st.sampled_from([0.0, 1.0, 2.5, math.inf]),
        st.floats(0, math.inf, width=32).map(abs),
    ),
    min_size=1,
    max_size=40,
)


@given(costs)
@settings(derandomize=True)
def test_sorting_keys_sorts_by_cost_then_id(cost: list[float]) -> None:
    keys = rank_keys(torch.tensor([cost]))
    ids = (keys.sort().values & ID_BITS).tolist()
    assert ids == [sorted(range(len(cost)), key=lambda i: (cost[i], i))]


@given(costs, st.integers(1, 1000).map(lambda n: n / 2**10), st.integers(1, 5))
@settings(derandomize=True)
def test_boundary_is_the_first_prefix_that_reaches_the_mass(
    cost: list[float], mass: float, width: int
) -> None:
    probs = [(i + 1) / 2**10 for i in range(len(cost))]  # exact sums, any total
    order = sorted(range(len(cost)), key=lambda i: (cost[i], i))
    reached, last = 0.0, order[-1]
    for i in order:
        reached += probs[i]
        if reached >= mass:
            last = i
            break
    keys = rank_keys(torch.tensor([cost]))
    found = mass_boundary(
        keys, torch.tensor([probs]), torch.tensor([[mass]], dtype=torch.float64), width
    )
    assert (found & ID_BITS).tolist() == [[last]]


def test_widening_one_row_leaves_the_others() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 3000, generator=generator)
    logits[1] *= 12  # peaked: a few tokens are enough
    keys, probs = rank_keys((logits.amax(-1, keepdim=True) - logits).abs()), logits.softmax(-1)
    mass = torch.tensor([[0.9], [0.9], [0.01], [0.999999]], dtype=torch.float64)
    narrow, whole = mass_boundary(keys, probs, mass, 2), mass_boundary(keys, probs, mass, 3000)
    assert torch.equal(narrow, whole)
