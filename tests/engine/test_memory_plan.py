import pytest

from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.memory_plan import MemoryPlan, plan_memory


def plan(kv_cache_bytes: int = 1000, requested_len: int | None = None) -> MemoryPlan:
    return plan_memory(
        kv_cache_bytes=kv_cache_bytes,
        bytes_per_block=100,
        block_size=16,
        max_position_embeddings=128,
        requested_len=requested_len,
    )


def test_the_cache_is_divided_into_whole_blocks() -> None:
    assert plan(1099) == MemoryPlan(num_blocks=10, max_model_len=128)


def test_a_small_cache_shortens_requests() -> None:
    assert plan(400).max_model_len == 64


def test_the_operator_may_ask_for_less() -> None:
    assert plan(requested_len=100).max_model_len == 100


@pytest.mark.parametrize(
    ("kv_cache_bytes", "requested_len", "says"),
    [(199, None, "1 blocks"), (1000, 129, "128 positions"), (400, 65, "= 4 blocks = 64 tokens")],
)
def test_what_cannot_fit_is_refused_with_the_sums(
    kv_cache_bytes: int, requested_len: int | None, says: str
) -> None:
    with pytest.raises(ModelRefused, match=says):
        plan(kv_cache_bytes, requested_len)
