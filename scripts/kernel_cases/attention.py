"""Paged attention at the shape of Llama-3-8B, bf16, with each backend there is.

Legend: B sequences, C tokens of each, Q of them new.
"""

import importlib.util

import torch

from kernel_cases.case import Call, Case, rotation
from lorax_serve.kernels.attention_backend import AttentionBackend
from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.triton.attention import TritonAttention

H, K, D = 32, 8, 128
ITEM = 2  # bytes
BLOCK_SIZES = {"triton": 64, "flash": 256}
DECODES = ((1, 1024), (32, 1024), (128, 1024), (256, 1024))
PROMPTS = ((8, 1024), (16, 512))


def cases() -> list[Case]:
    names = ["triton"]
    if importlib.util.find_spec("flash_attn") is not None:
        names.append("flash")
    return [
        attention(name, num, context, num_new)
        for name in names
        for num, context, num_new in (
            *((num, context, 1) for num, context in DECODES),
            *((num, context, context) for num, context in PROMPTS),
        )
    ]


def attention(name: str, num_sequences: int, context: int, num_new: int) -> Case:
    def make_call(device: torch.device) -> Call:
        q = torch.randn(num_sequences * num_new, H, D, dtype=torch.bfloat16, device=device)
        batch = make_batch(num_sequences, context, num_new, BLOCK_SIZES[name], device)
        num_blocks = num_sequences * (context // BLOCK_SIZES[name])
        shape = (num_blocks, BLOCK_SIZES[name], 2, K, D)
        cache = torch.randn(shape, dtype=torch.bfloat16, device=device)
        step = make_backend(name, device).bind(batch, cache)
        return lambda: step(q, cache, scale=D**-0.5, sliding_window=None)

    num_bytes = ITEM * num_sequences * D * (2 * context * K + 2 * num_new * H)
    pairs = context if num_new == 1 else context * (context + 1) // 2
    flops = 4 * num_sequences * H * D * pairs
    kind = "decode" if num_new == 1 else "prompt"
    shape = {"B": num_sequences, "C": context, "Q": num_new}
    return Case(f"attention_{kind}_{name}", shape, num_bytes, flops, rotation(num_bytes, make_call))


def make_backend(name: str, device: torch.device) -> AttentionBackend:
    if name == "triton":
        return TritonAttention(torch.cuda.get_device_properties(device).multi_processor_count)
    from lorax_serve.kernels.flash_attention import FlashAttention

    return FlashAttention()


def make_batch(
    num_sequences: int, context: int, num_new: int, block_size: int, device: torch.device
) -> AttentionBatch:
    width = context // block_size
    blocks = torch.randperm(num_sequences * width, device=device, dtype=torch.int32)
    is_decode = num_new == 1
    return AttentionBatch(
        slot_mapping=torch.zeros(num_sequences * num_new, dtype=torch.int32, device=device),
        block_tables=blocks.view(num_sequences, width),
        query_indptr=torch.arange(num_sequences + 1, dtype=torch.int32, device=device) * num_new,
        context_lens=torch.full((num_sequences,), context, dtype=torch.int32, device=device),
        num_decodes=num_sequences if is_decode else 0,
        max_query_len=num_new,
        max_context_len=context,
    )
