"""How much fits: KV blocks and the longest request, from sizes in bytes. Arithmetic only."""

from dataclasses import dataclass

from lorax_serve.engine.errors import ModelRefused

MIB = 2**20


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    num_blocks: int
    max_model_len: int  # prompt plus output tokens of one request


def plan_memory(
    *,
    kv_cache_bytes: int,
    bytes_per_block: int,
    block_size: int,
    max_position_embeddings: int,
    requested_len: int | None,
) -> MemoryPlan:
    """Divide the KV cache into blocks and bound a request by model and cache.

    Raises ModelRefused, with the sums, when not one block fits or when the operator asks for
    requests longer than the model or the cache allows.
    """
    num_blocks = kv_cache_bytes // bytes_per_block
    num_tokens = num_blocks * block_size
    sums = (
        f"{kv_cache_bytes / MIB:.0f} MiB of KV cache / {bytes_per_block / MIB:.3f} MiB a block "
        f"of {block_size} tokens = {num_blocks} blocks = {num_tokens} tokens"
    )
    if num_blocks < 2:
        raise ModelRefused(f"The KV cache is too small: {sums}. Raise --kv-cache-memory.")
    if requested_len is None:
        return MemoryPlan(num_blocks, min(max_position_embeddings, num_tokens))
    if requested_len > max_position_embeddings:
        raise ModelRefused(
            f"--max-model-len {requested_len} exceeds the model's {max_position_embeddings} "
            "positions."
        )
    if requested_len > num_tokens:
        raise ModelRefused(
            f"--max-model-len {requested_len} does not fit: {sums}. "
            "Raise --kv-cache-memory or lower --max-model-len."
        )
    return MemoryPlan(num_blocks, requested_len)
