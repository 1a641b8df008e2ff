"""The sums of a GPU's memory, and the refusals that show them."""

import pytest

from lorax_serve.engine.cuda.memory import GpuMemory, kv_cache_bytes
from lorax_serve.engine.errors import ModelRefused

GIB = 2**30
MEMORY = GpuMemory(
    total=80 * GIB,
    share=0.9,
    used_by_others=GIB,
    weights=15 * GIB,
    adapters=10 * GIB,
    activations=2 * GIB,
    graphs=GIB,
)


def test_the_cache_gets_what_is_left() -> None:
    assert MEMORY.kv_cache == (72 - 1 - 15 - 10 - 2 - 1) * GIB
    assert kv_cache_bytes(MEMORY, None, GIB) == MEMORY.kv_cache


def test_the_sums_name_every_part() -> None:
    assert MEMORY.sums == (
        "90% of 80.00 GiB = 72.00 - 1.00 context and others - 15.00 weights - 10.00 adapters"
        " - 2.00 activations - 1.00 graphs = 43.00 GiB for the KV cache"
    )


def test_the_operator_may_ask_for_less_but_not_for_more() -> None:
    assert kv_cache_bytes(MEMORY, 5 * GIB, GIB) == 5 * GIB
    with pytest.raises(ModelRefused, match=r"kv-cache-memory of 44.00 GiB does not fit: 90% of"):
        kv_cache_bytes(MEMORY, 44 * GIB, GIB)


def test_a_model_that_leaves_no_room_is_refused_with_the_sums() -> None:
    with pytest.raises(ModelRefused, match=r"does not fit: .*= 43.00 GiB.*--adapter-memory"):
        kv_cache_bytes(MEMORY, None, 22 * GIB)
