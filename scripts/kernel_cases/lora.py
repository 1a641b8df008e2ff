"""SGMV at the sites of Llama-3-8B, bf16: one site at a time, and a whole decode step.

Legend: T rows of a step, N distinct adapters, r rank.
"""

import numpy as np
import torch

from kernel_cases.case import Call, Case, rotation
from lorax_serve.kernels.lora import LoraSite, LoraTarget, Segments
from lorax_serve.kernels.lora_table import LoraTable, tiles_of
from lorax_serve.kernels.triton.lora_delta import (
    DECODE,
    PROMPT,
    LoraWeightsOnDevice,
    SgmvShapes,
    TritonLoraDelta,
)

ITEM = 2  # bytes
RANK = 16
NUM_LAYERS = 32
SITES = {  # input features, output features of each target
    "qkv": (4096, (4096, 1024, 1024)),
    "output": (4096, (4096,)),
    "gate_up": (4096, (14336, 14336)),
    "down": (14336, (4096,)),
}
DECODES = ((1, 1), (128, 1), (128, 32), (128, 128))
PROMPTS = ((8192, 1), (8192, 16))


def cases() -> list[Case]:
    of_sites = [
        site_case(name, num_rows, num_adapters, shapes)
        for name in SITES
        for shapes, counts in ((DECODE, DECODES), (PROMPT, PROMPTS))
        for num_rows, num_adapters in counts
    ]
    return [*of_sites, *(step_case(num_rows, num) for num_rows, num in DECODES)]


def site_case(name: str, num_rows: int, num_adapters: int, shapes: SgmvShapes) -> Case:
    def make_call(device: torch.device) -> Call:
        site = make_site(0, name)
        delta = make_delta((site,), num_rows, num_adapters, shapes, device)
        x = normal(device, num_rows, site.in_features)
        y = normal(device, num_rows, sum(SITES[name][1]))
        return lambda: delta.shrink(x, site).expand_into(y)

    num_bytes = site_bytes(name, num_rows, num_adapters)
    num_inputs, outs = SITES[name]
    flops = 2 * num_rows * RANK * (num_inputs * len(outs) + sum(outs))
    shape = {"T": num_rows, "N": num_adapters, "r": RANK}
    return Case(f"sgmv_{name}", shape, num_bytes, flops, rotation(num_bytes, make_call))


def step_case(num_rows: int, num_adapters: int) -> Case:
    """All sites of all layers: what a decode step adds to the base model's."""

    def make(device: torch.device) -> list[Call]:
        names = [name for _ in range(NUM_LAYERS) for name in SITES]
        sites = tuple(make_site(index, name) for index, name in enumerate(names))
        delta = make_delta(sites, num_rows, num_adapters, DECODE, device)
        xs = {n: normal(device, num_rows, n) for n in {site.in_features for site in sites}}
        ys = {name: normal(device, num_rows, sum(SITES[name][1])) for name in SITES}

        def call() -> None:
            for name, site in zip(names, sites, strict=True):
                delta.shrink(xs[site.in_features], site).expand_into(ys[name])

        return [call]

    num_bytes = NUM_LAYERS * sum(site_bytes(name, 0, num_adapters) for name in SITES)
    return Case("sgmv_step", {"T": num_rows, "N": num_adapters, "r": RANK}, num_bytes, 0, make)


def site_bytes(name: str, num_rows: int, num_adapters: int) -> int:
    """Weights once, x read, y read and written."""
    num_inputs, outs = SITES[name]
    weights = num_adapters * RANK * (num_inputs * len(outs) + sum(outs))
    return ITEM * (weights + num_rows * (num_inputs + 2 * sum(outs)))


def make_site(index: int, name: str) -> LoraSite:
    num_inputs, outs = SITES[name]
    starts = [sum(outs[:i]) for i in range(len(outs))]
    targets = (
        LoraTarget(f"{index}.{i}", start, out)
        for i, (start, out) in enumerate(zip(starts, outs, strict=True))
    )
    return LoraSite(index, num_inputs, tuple(targets))


def make_delta(
    sites: tuple[LoraSite, ...],
    num_rows: int,
    num_adapters: int,
    shapes: SgmvShapes,
    device: torch.device,
) -> TritonLoraDelta:
    layout = LoraTable.of(sites)
    a_offsets, b_offsets, end = [], [], 0
    for site in sites:
        a_offsets.append(end)
        end += RANK * len(site.targets) * site.in_features
        for target in site.targets:
            b_offsets.append(end)
            end += RANK * target.out_features
    ranks = [RANK] * len(b_offsets)
    rows = [layout.row(i * end, a_offsets, b_offsets, ranks) for i in range(num_adapters)]
    slab = torch.empty(num_adapters * end, dtype=torch.bfloat16, device=device).normal_(std=1e-3)
    table = torch.stack([torch.from_numpy(row) for row in rows]).to(device)
    weights = LoraWeightsOnDevice.of(layout, slab, table)
    bounds = [index * num_rows // num_adapters for index in range(num_adapters + 1)]
    tiles = tiles_of(Segments(tuple(bounds), tuple(range(num_adapters))), shapes.tile_rows)
    if shapes is DECODE:  # a CUDA graph has as many tiles as rows, however few are in use
        padding = np.full((num_rows - len(tiles), 3), -1, dtype=np.int32)
        tiles = np.concatenate((tiles, padding))
    partials = weights.partials(shapes, num_rows, 3 * RANK)
    return TritonLoraDelta(weights, torch.from_numpy(tiles).to(device), partials, shapes)


def normal(device: torch.device, *shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=device)
