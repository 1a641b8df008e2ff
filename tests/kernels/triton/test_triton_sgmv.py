"""The SGMV kernels against their torch twin, and a row's independence of its batch."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from devices import DEVICES, relative_error
from lorax_serve.engine.adapters.slab import slab_sites
from lorax_serve.kernels.lora import BASE_SLOT, LoraSite, LoraTarget, Segments
from lorax_serve.kernels.lora_table import LoraTable, tiles_of
from lorax_serve.kernels.sgmv import SegmentsDelta, SiteWeights
from lorax_serve.kernels.triton.lora_delta import (
    DECODE,
    PROMPT,
    SHORT_PROMPT,
    LoraWeightsOnDevice,
    SgmvShapes,
    TritonLoraDelta,
    warm_up,
)
from lorax_serve.kernels.triton.sgmv_expand import ExpandShape
from lorax_serve.kernels.triton.sgmv_shrink import ShrinkShape
from random_lora import out_features, pack, random_weights

# Small enough for the interpreter, yet several splits, products and column blocks a site.
SMALL_DECODE = SgmvShapes(
    4,
    ShrinkShape(tile_rows=16, split=64, block_k=64, block_r=16, max_tile_programs=3),
    ShrinkShape(tile_rows=16, split=64, block_k=64, block_r=16, max_tile_programs=2),
    ExpandShape(block_n=64, max_tile_programs=2),
)
SMALL_SHORT_PROMPT = replace(SMALL_DECODE, tile_rows=16)
SMALL_PROMPT = SgmvShapes(
    32,
    ShrinkShape(tile_rows=32, split=128, block_k=32, block_r=32),
    ShrinkShape(tile_rows=32, split=128, block_k=32, block_r=32),
    ExpandShape(block_n=64),
)
SMALL = (SMALL_DECODE, SMALL_SHORT_PROMPT, SMALL_PROMPT)
KINDS = ("decode", "short_prompt", "prompt")
RANKS = (16, 1, 8, 0, 100, 64)


def fused_sites(width: int) -> tuple[LoraSite, ...]:
    fused = (
        LoraTarget("q", 0, width),
        LoraTarget("k", width, width // 4),
        LoraTarget("v", width + width // 4, width // 4),
    )
    return (
        LoraSite(0, width, fused),
        LoraSite(1, 3 * width + width // 2, (LoraTarget("down", 0, width),)),
    )


class Pool:
    """A few random adapters in one buffer, as both the kernels and the twin want them."""

    def __init__(
        self,
        sites: Sequence[LoraSite],
        ranks: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        shapes: SgmvShapes,
    ) -> None:
        layout = LoraTable.of(sites)
        rng = random.Random(0)
        slabs, rows, self.twins, start = [], [], list[tuple[SiteWeights | None, ...]](), 0
        for seed, rank in enumerate(ranks):
            # One target in four is left alone, so that ranks and offsets differ within an adapter.
            by_module = {
                t.module: rank if rng.random() < 0.75 else 0 for s in sites for t in s.targets
            }
            weights = random_weights(sites, by_module, seed=seed)
            packed = pack(weights, sites, dtype=dtype, transposed_a=False)
            slab = (packed.slab.float() / 8).to(dtype).to(device)
            slabs.append(slab)
            self.twins.append(slab_sites(slab, sites, packed.layout))
            rows.append(
                torch.from_numpy(
                    layout.row(
                        start, packed.layout.a_offsets, packed.layout.b_offsets, packed.layout.ranks
                    )
                )
            )
            start += slab.numel()
        table = torch.stack(rows).to(device)
        self.shapes = shapes
        blocks = {
            (site.index, shapes.expand.block_n): torch.from_numpy(
                layout.column_blocks(site, shapes.expand.block_n)
            ).to(device)
            for site in sites
        }
        self.weights = LoraWeightsOnDevice(layout, torch.cat(slabs), table, blocks)
        self.max_ranks = 3 * max(ranks)

    def delta(self, segments: Segments, num_tiles: int | None = None) -> TritonLoraDelta:
        tiles = torch.from_numpy(tiles_of(segments, self.shapes.tile_rows))
        if num_tiles is not None:
            padding = torch.full((num_tiles - len(tiles), 3), -1, dtype=torch.int32)
            tiles = torch.cat((tiles, padding))
        partials = self.weights.partials(self.shapes, segments.indptr[-1], self.max_ranks)
        partials.fill_(float("nan"))
        return TritonLoraDelta(
            self.weights, tiles.to(self.weights.slab.device), partials, self.shapes
        )

    def twin(self, segments: Segments) -> SegmentsDelta:
        untouched = (None,) * len(self.weights.layout.sites)
        return SegmentsDelta(
            segments,
            tuple(untouched if slot == BASE_SLOT else self.twins[slot] for slot in segments.slots),
        )


def segments_of(rows: Sequence[int]) -> Segments:
    starts = [i for i, slot in enumerate(rows) if i == 0 or rows[i - 1] != slot]
    return Segments(indptr=(*starts, len(rows)), slots=tuple(rows[i] for i in starts))


TRAFFIC = {
    "one_row": [4],
    "distinct": [BASE_SLOT, 0, 1, 2, 3, 4, 5],
    "identical": [0] * 40,
    "mixed": [BASE_SLOT] * 3 + [0] * 17 + [1] * 2 + [4] * 33 + [5],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shapes", SMALL, ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("traffic", TRAFFIC)
def test_kernels_equal_the_twin(
    traffic: str, dtype: torch.dtype, shapes: SgmvShapes, device: torch.device
) -> None:
    check(TRAFFIC[traffic], fused_sites(128), dtype, shapes, device)


@pytest.mark.gpu
@pytest.mark.parametrize("shapes", [DECODE, SHORT_PROMPT, PROMPT], ids=KINDS)
@pytest.mark.parametrize("traffic", TRAFFIC)
def test_kernels_equal_the_twin_at_the_size_of_llama(traffic: str, shapes: SgmvShapes) -> None:
    device = torch.device("cuda")
    check(TRAFFIC[traffic], fused_sites(4096), torch.bfloat16, shapes, device)


def check(
    rows: Sequence[int],
    sites: Sequence[LoraSite],
    dtype: torch.dtype,
    shapes: SgmvShapes,
    device: torch.device,
) -> None:
    pool = Pool(sites, RANKS, dtype, device, shapes)
    segments = segments_of(rows)
    delta, twin = pool.delta(segments, num_tiles=len(rows) + 2), pool.twin(segments)
    generator = torch.Generator().manual_seed(1)
    for site in sites:
        x = torch.randn(len(rows), site.in_features, generator=generator).to(dtype).to(device)
        y = torch.randn(len(rows), out_features(site), generator=generator).to(dtype).to(device)
        expected = y.clone()
        twin.shrink(x, site).expand_into(expected)
        got = y.clone()
        delta.shrink(x, site).expand_into(got)
        tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
        assert relative_error(got, expected) < tolerance
        base = [row for row, slot in enumerate(rows) if slot == BASE_SLOT]
        assert torch.equal(got[base], y[base])


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_gets_the_same_bits_beside_any_other_adapters(device: torch.device) -> None:
    sites = fused_sites(128)
    pool = Pool(sites, RANKS, torch.float32, device, SMALL_DECODE)
    rows = [0] * 5 + [4] * 20 + [5]
    for site in sites:
        x = torch.randn(len(rows), site.in_features).to(device)
        together = torch.zeros(len(rows), out_features(site), device=device)
        pool.delta(segments_of(rows)).shrink(x, site).expand_into(together)
        for own in (slice(0, 5), slice(5, 25), slice(25, 26)):
            alone = torch.zeros(own.stop - own.start, out_features(site), device=device)
            pool.delta(segments_of(rows[own])).shrink(x[own], site).expand_into(alone)
            assert torch.equal(alone, together[own])
        for row in (2, 24):
            alone = torch.zeros(1, out_features(site), device=device)
            pool.delta(segments_of([rows[row]])).shrink(x[row : row + 1], site).expand_into(alone)
            assert relative_error(alone[0], together[row]) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_warming_up_computes_nothing(device: torch.device) -> None:
    layout = LoraTable.of(fused_sites(128))
    slab = torch.full((16,), float("nan"), device=device)
    table = torch.zeros(2, layout.width, dtype=torch.int64, device=device)
    weights = LoraWeightsOnDevice.of(layout, slab, table)
    for shapes in (DECODE, SHORT_PROMPT, PROMPT):
        warm_up(weights, shapes)
    assert bool(slab.isnan().all()) and not bool(table.any())


@pytest.mark.parametrize("device", DEVICES)
def test_odd_sizes_lose_no_column(device: torch.device) -> None:
    sites = (LoraSite(0, 37, (LoraTarget("a", 0, 41), LoraTarget("b", 41, 7))),)
    assert not LoraTable.of(sites).is_aligned
    check([0, 0, 1], sites, torch.float32, SMALL_DECODE, device)
