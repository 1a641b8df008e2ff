"""The element-wise kernels replayed from one CUDA graph."""

import pytest
import torch

from decoder_twins import Twins, normal
from lorax_serve.kernels.rope import rotation

NUM_ROWS, NUM_FEATURES, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 8, 512, 4, 2, 64
DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16


class Layer:
    """A row's way through all five kernels, on buffers of its own."""

    def __init__(self) -> None:
        self.kernels = Twins.on(DEVICE).kernels
        self.x, self.residual, self.weight, self.head_weight, self.qkv, self.cache = (
            torch.empty(shape, dtype=DTYPE, device=DEVICE)
            for shape in (
                (NUM_ROWS, NUM_FEATURES),
                (NUM_ROWS, NUM_FEATURES),
                (NUM_FEATURES,),
                (HEAD_DIM,),
                (NUM_ROWS, NUM_HEADS + 2 * NUM_KV_HEADS, HEAD_DIM),
                (2, NUM_ROWS, 2, NUM_KV_HEADS, HEAD_DIM),
            )
        )
        self.slots = torch.empty(NUM_ROWS, dtype=torch.int64, device=DEVICE)
        frequencies = torch.logspace(0, -3, HEAD_DIM // 2, device=DEVICE)
        self.turn = rotation(torch.arange(NUM_ROWS, device=DEVICE), frequencies, 1.0)

    def fill(self, seed: int) -> None:
        for buffer in (self.x, self.residual, self.weight, self.head_weight, self.qkv, self.cache):
            buffer.copy_(normal(*buffer.shape, device=DEVICE, dtype=DTYPE, seed=seed))
        slots = torch.randperm(2 * NUM_ROWS, generator=torch.Generator().manual_seed(seed))
        self.slots.copy_(slots[:NUM_ROWS])
        self.slots[seed % NUM_ROWS] = -1

    def run(self) -> tuple[torch.Tensor, ...]:
        normed = self.kernels.rms_norm(self.x, self.weight)
        added = self.kernels.add_rms_norm(normed, self.residual, self.weight)
        self.kernels.rms_norm_heads_(self.qkv[:, :NUM_HEADS], self.head_weight)
        self.kernels.rope_and_write_kv(self.qkv, self.turn, self.cache, self.slots)
        gated = self.kernels.silu_mul(added)
        return normed, added, gated, self.residual, self.qkv, self.cache


@pytest.mark.gpu
def test_a_replay_gives_the_bits_of_direct_launches() -> None:
    layer = Layer()
    layer.fill(0)
    layer.run()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = layer.run()
    for seed in (1, 2, 3):
        layer.fill(seed)
        direct = [tensor.clone() for tensor in layer.run()]
        for tensor in replayed:
            tensor.fill_(float("nan"))
        layer.fill(seed)
        graph.replay()
        for got, expected in zip(replayed, direct, strict=True):
            assert torch.equal(got, expected)
