"""The element-wise kernels of a decoder layer, bf16, at the shapes of Llama-3-8B.

Legend: T rows of a step, E hidden size, I intermediate size, H query heads, K key-value heads, D
head size.
"""

from functools import partial

import torch

from kernel_cases.case import Call, Case, rotation
from lorax_serve.kernels.rope import Rotation
from lorax_serve.kernels.rope import rotation as rotation_of
from lorax_serve.kernels.triton.decoder_kernels import TritonDecoderKernels

NUM_ROWS = (1, 128, 256, 8192)
E, I, H, K, D = 4096, 14336, 32, 8, 128  # noqa: E741  # as in the legend
BLOCK_SIZE = 16
ITEM, FLOAT32, INT64 = 2, 4, 8  # bytes
KERNELS = TritonDecoderKernels(eps=1e-5)


def cases() -> list[Case]:
    of_rows = (rms_norm, add_rms_norm, silu_mul, rope_and_write_kv)
    return [case(num_rows) for case in of_rows for num_rows in NUM_ROWS]


def rms_norm(num_rows: int) -> Case:
    def make_call(device: torch.device) -> Call:
        return partial(KERNELS.rms_norm, normal(device, num_rows, E), normal(device, E))

    num_bytes = (2 * num_rows * E + E) * ITEM
    return Case("rms_norm", {"T": num_rows, "E": E}, num_bytes, 0, rotation(num_bytes, make_call))


def add_rms_norm(num_rows: int) -> Case:
    def make_call(device: torch.device) -> Call:
        x, residual = normal(device, num_rows, E), normal(device, num_rows, E)
        return partial(KERNELS.add_rms_norm, x, residual, normal(device, E))

    num_bytes = (4 * num_rows * E + E) * ITEM
    shape = {"T": num_rows, "E": E}
    return Case("add_rms_norm", shape, num_bytes, 0, rotation(num_bytes, make_call))


def silu_mul(num_rows: int) -> Case:
    def make_call(device: torch.device) -> Call:
        return partial(KERNELS.silu_mul, normal(device, num_rows, 2 * I))

    num_bytes = 3 * num_rows * I * ITEM
    return Case("silu_mul", {"T": num_rows, "I": I}, num_bytes, 0, rotation(num_bytes, make_call))


def rope_and_write_kv(num_rows: int) -> Case:
    def make_call(device: torch.device) -> Call:
        num_blocks = -(-num_rows // BLOCK_SIZE)
        return partial(
            KERNELS.rope_and_write_kv,
            normal(device, num_rows, H + 2 * K, D),
            turn(device, num_rows),
            normal(device, num_blocks, BLOCK_SIZE, 2, K, D),
            torch.randperm(num_blocks * BLOCK_SIZE, device=device)[:num_rows].clone(),
        )

    read, turned, cached = H + 2 * K, H + K, 2 * K
    num_bytes = num_rows * ((read + turned + cached) * D * ITEM + D * FLOAT32 + INT64)
    shape = {"T": num_rows, "H": H, "K": K, "D": D}
    return Case("rope_and_write_kv", shape, num_bytes, 0, rotation(num_bytes, make_call))


def normal(device: torch.device, *shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=device)


def turn(device: torch.device, num_rows: int) -> Rotation:
    frequencies = torch.logspace(0, -5, D // 2, device=device)
    return rotation_of(torch.arange(num_rows, device=device), frequencies, 1.0)
