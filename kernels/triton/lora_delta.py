"""The LoRA part of a step on a GPU."""

from dataclasses import dataclass, field

import torch

from lorax_serve.kernels.lora import LoraSite
from lorax_serve.kernels.lora_table import LoraTable
from lorax_serve.kernels.triton.sgmv_expand import ExpandShape, expand
from lorax_serve.kernels.triton.sgmv_shrink import ShrinkShape, shrink


@dataclass(frozen=True, slots=True)
class SgmvShapes:
    """How one kind of step divides its work."""

    tile_rows: int  # of a tile at most; no more than shrink's products have
    shrink: ShrinkShape
    wide_shrink: ShrinkShape  # where the input is wider than WIDE features
    expand: ExpandShape

    def shrink_of(self, in_features: int) -> ShrinkShape:
        return self.wide_shrink if in_features > WIDE else self.shrink

    def max_splits(self, in_features: int) -> int:
        return self.shrink_of(in_features).num_splits(in_features)


WIDE = 8192
# A decode is bound by memory and launches: small tiles, and programs enough to fill the device with
# one row. A prompt must not read its activations more often than needed: tall tiles, few splits.
# One short enough for a graph has a decode's splits, and tiles as tall as their products.
_SHRINK = ShrinkShape(16, split=512, block_k=512, block_r=16, num_warps=2, num_stages=2)
_WIDE_SHRINK = ShrinkShape(16, split=1024, block_k=1024, block_r=16, num_warps=2, num_stages=2)
DECODE = SgmvShapes(
    4, _SHRINK, _WIDE_SHRINK, ExpandShape(block_n=1024, num_warps=4, max_tile_programs=128)
)
SHORT_PROMPT = SgmvShapes(
    16, _SHRINK, _WIDE_SHRINK, ExpandShape(block_n=512, num_warps=2, max_tile_programs=128)
)
PROMPT = SgmvShapes(
    tile_rows=64,
    shrink=ShrinkShape(tile_rows=64, split=2048, block_k=128, block_r=64),
    wide_shrink=ShrinkShape(tile_rows=64, split=2048, block_k=128, block_r=64),
    expand=ExpandShape(block_n=256),
)


@dataclass(frozen=True, slots=True)
class LoraWeightsOnDevice:
    """All resident adapters: one buffer, and where each one's matrices lie in it."""

    layout: LoraTable
    slab: torch.Tensor  # [elements] of the model's dtype
    table: torch.Tensor  # [slots, layout.width] int64
    blocks: dict[tuple[int, int], torch.Tensor]  # (site index, block width) -> column blocks

    @staticmethod
    def of(layout: LoraTable, slab: torch.Tensor, table: torch.Tensor) -> "LoraWeightsOnDevice":
        blocks = {
            (site.index, width): torch.from_numpy(layout.column_blocks(site, width)).to(slab.device)
            for site in layout.sites
            for width in {shapes.expand.block_n for shapes in (DECODE, SHORT_PROMPT, PROMPT)}
        }
        return LoraWeightsOnDevice(layout, slab, table, blocks)

    def partials(self, shapes: SgmvShapes, num_rows: int, max_ranks: int) -> torch.Tensor:
        """Room for the partial products of a step, for sites of at most `max_ranks` ranks."""
        num_splits = max(shapes.max_splits(site.in_features) for site in self.layout.sites)
        width = -(-max_ranks // 16) * 16
        return torch.empty(
            num_splits, num_rows, width, dtype=torch.float32, device=self.slab.device
        )


@dataclass(frozen=True, slots=True)
class TritonLoraDelta:
    """A LoraDelta. Given a stream to fork to, shrink runs beside the base product."""

    weights: LoraWeightsOnDevice
    tiles: torch.Tensor  # [N, 3] int32
    partials: torch.Tensor  # [S or more, T or more, R or more] float32, scratch
    shapes: SgmvShapes = field(default=DECODE)
    fork: torch.cuda.Stream | None = None

    def shrink(self, x: torch.Tensor, site: LoraSite) -> "_Shrunk":
        if self.fork is None:
            self._shrink(x, site)
        else:
            self.fork.wait_stream(torch.cuda.current_stream(x.device))
            with torch.cuda.stream(self.fork):
                self._shrink(x, site)
        return _Shrunk(self, site)

    def _shrink(self, x: torch.Tensor, site: LoraSite) -> None:
        shrink(
            x,
            self.weights.slab,
            self.weights.table,
            self.tiles,
            self.partials,
            site_column=self.weights.layout.site_column(site),
            shape=self.shapes.shrink_of(site.in_features),
            aligned=self.weights.layout.is_aligned,
        )


@dataclass(frozen=True, slots=True)
class _Shrunk:
    delta: TritonLoraDelta
    site: LoraSite

    def expand_into(self, y: torch.Tensor) -> None:
        delta, shapes = self.delta, self.delta.shapes
        if delta.fork is not None:
            torch.cuda.current_stream(y.device).wait_stream(delta.fork)
        expand(
            y,
            delta.weights.slab,
            delta.weights.table,
            delta.tiles,
            delta.weights.blocks[self.site.index, shapes.expand.block_n],
            delta.partials,
            num_splits=shapes.max_splits(self.site.in_features),
            tile_rows=shapes.tile_rows,
            shape=shapes.expand,
            aligned=delta.weights.layout.is_aligned,
        )


def warm_up(weights: LoraWeightsOnDevice, shapes: SgmvShapes) -> None:
    """Compile what steps of these shapes need, so that no request waits for it.

    To be called while no adapter is placed: slot 0 has no ranks then, and nothing is computed.
    """
    device, dtype = weights.slab.device, weights.slab.dtype
    tiles = torch.tensor([[0, 0, 1]], dtype=torch.int32, device=device)
    delta = TritonLoraDelta(weights, tiles, weights.partials(shapes, 1, 1), shapes)
    for site in weights.layout.sites:
        last = site.targets[-1]
        x = torch.zeros(1, site.in_features, dtype=dtype, device=device)
        y = torch.zeros(1, last.out_start + last.out_features, dtype=dtype, device=device)
        delta.shrink(x, site).expand_into(y)
