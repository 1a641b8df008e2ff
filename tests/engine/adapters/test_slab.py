"""A packed slab holds exactly its adapter: no more bytes, every matrix where the layout says."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.slab import (
    UNTARGETED,
    plan_slab,
    slab_matrices,
    slab_sites,
)
from random_lora import made_up_sites, mixed_ranks, pack, random_weights

SITES = made_up_sites()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MODULES = [target.module for site in SITES for target in site.targets]
RANKS = st.dictionaries(st.sampled_from(MODULES), st.integers(0, 40)).filter(
    lambda ranks: any(ranks.values())
)


@settings(derandomize=True, max_examples=100)
@given(
    ranks=RANKS,
    dtype=st.sampled_from(DTYPES),
    file_dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([1.0, 2.0, 0.3]),
    transposed_a=st.booleans(),
)
def test_unpacking_inverts_packing(
    ranks: dict[str, int],
    dtype: torch.dtype,
    file_dtype: torch.dtype,
    scale: float,
    transposed_a: bool,
) -> None:
    weights = random_weights(SITES, ranks, dtype=file_dtype)
    matrices = {m: replace(each, scale=scale) for m, each in weights.matrices.items()}
    weights = replace(weights, matrices=matrices)
    packed = pack(weights, SITES, dtype=dtype, transposed_a=transposed_a)
    unpacked = {m: (a, b_t) for m, a, b_t in slab_matrices(packed.slab, packed.layout)}
    assert unpacked.keys() == weights.matrices.keys() == {m for m, rank in ranks.items() if rank}
    for module, (a, b_t) in unpacked.items():
        matrices = weights.matrices[module]
        assert torch.equal(a, matrices.a.to(dtype))
        assert torch.equal(b_t.t(), (matrices.b.float() * matrices.scale).to(dtype))


@settings(derandomize=True, max_examples=100)
@given(ranks=RANKS, transposed_a=st.booleans())
def test_matrices_fill_the_slab_without_overlap(ranks: dict[str, int], transposed_a: bool) -> None:
    layout = plan_slab(SITES, ranks, transposed_a=transposed_a)
    slab = torch.zeros(layout.num_elements)
    for _, a, b_t in slab_matrices(slab, layout):
        a += 1
        b_t += 1
    assert torch.equal(slab, torch.ones(layout.num_elements))
    for offset, rank in zip(layout.b_offsets, layout.ranks, strict=True):
        assert (rank == 0) == (offset == UNTARGETED)


@pytest.mark.parametrize("transposed_a", [True, False])
def test_sites_view_the_slab_with_a_stacked(transposed_a: bool) -> None:
    ranks = mixed_ranks(SITES, seed=3)
    weights = random_weights(SITES, ranks)
    packed = pack(weights, SITES, dtype=torch.float32, transposed_a=transposed_a)
    slab = packed.slab
    for site, views in zip(SITES, slab_sites(slab, SITES, packed.layout), strict=True):
        targeted = [target for target in site.targets if ranks[target.module]]
        assert (views is not None) == bool(targeted)
        if views is None:
            continue
        stacked = torch.cat([weights.matrices[target.module].a for target in targeted])
        assert torch.equal(views.a_t.t(), stacked)
        assert (views.a_t if transposed_a else views.a_t.t()).is_contiguous()
        for target, view in zip(targeted, views.targets, strict=True):
            assert view.b_t.is_contiguous()
            assert view.columns == slice(target.out_start, target.out_start + target.out_features)
            for matrix in (views.a_t, view.b_t):
                assert matrix.untyped_storage().data_ptr() == slab.untyped_storage().data_ptr()
