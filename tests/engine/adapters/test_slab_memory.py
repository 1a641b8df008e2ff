"""What the memory of the pool holds and computes: slabs, and the deltas of segments."""

from itertools import pairwise

import torch

from lorax_serve.engine.adapters.device_pool import AdapterPool
from lorax_serve.engine.adapters.eviction import UseHistory
from lorax_serve.engine.adapters.slab import slab_matrices
from lorax_serve.engine.adapters.slab_tier import ALIGNMENT
from lorax_serve.kernels.lora import BASE_SLOT, Segments
from random_lora import mixed_ranks, out_features, pack, random_weights, uniform_ranks
from small_pools import SITES, new_memory


def test_a_delta_adds_each_segments_own_adapter() -> None:
    memory = new_memory(1 << 20)
    pool = AdapterPool(memory, UseHistory())
    adapters = []
    for seed in range(3):
        weights = random_weights(SITES, mixed_ranks(SITES, seed), seed=seed)
        slot = pool.place(pack(weights, SITES))
        assert slot is not None
        adapters.append((slot, weights))
    segments = Segments(
        indptr=(0, 2, 3, 7, 9),
        slots=(adapters[1][0].index, BASE_SLOT, adapters[0][0].index, adapters[2][0].index),
    )
    delta = memory.delta(segments)
    assert delta is not None
    by_slot = {slot.index: weights for slot, weights in adapters}
    for site in SITES:
        x = torch.randn(9, site.in_features)
        y = torch.randn(9, out_features(site))
        expected = y.double()
        for (first, last), index in zip(pairwise(segments.indptr), segments.slots, strict=True):
            for target in site.targets if index != BASE_SLOT else ():
                m = by_slot[index].matrices.get(target.module)
                if m is not None:
                    columns = slice(target.out_start, target.out_start + target.out_features)
                    update = x[first:last].double() @ m.a.double().t() @ m.b.double().t()
                    expected[first:last, columns] += m.scale * update
        delta.shrink(x, site).expand_into(y)
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)


def test_base_rows_alone_need_no_delta() -> None:
    memory = new_memory(1 << 16)
    assert memory.delta(Segments(indptr=(0, 5), slots=(BASE_SLOT,))) is None
    assert memory.delta(Segments(indptr=(0,), slots=())) is None


def test_slabs_round_trip_through_the_pool() -> None:
    memory = new_memory(1 << 20, torch.bfloat16)
    pool = AdapterPool(memory, UseHistory())
    weights = random_weights(SITES, uniform_ranks(SITES, 5))
    packed = pack(weights, SITES, dtype=torch.bfloat16)
    slot = pool.place(packed)
    assert slot is not None
    assert slot.num_bytes % ALIGNMENT == 0 and slot.num_bytes - packed.num_bytes < ALIGNMENT
    a_of = {module: a for module, a, _ in slab_matrices(packed.slab, packed.layout)}
    for site, views in zip(SITES, memory.weights_of(slot.index), strict=True):
        assert views is not None
        for target, view in zip(site.targets, views.targets, strict=True):
            assert torch.equal(views.a_t[:, view.ranks].t(), a_of[target.module])
