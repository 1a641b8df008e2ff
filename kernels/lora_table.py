"""The integers that tell GPU kernels which rows use which adapter, and where its matrices lie.

A *table* has one int64 row per adapter slot: for every site (A offset, ranks of the site), then for
every target (B offset, rank, first rank within the site), targets numbered over the whole model.
Offsets are elements of the buffer all adapters share; whatever is not targeted has rank 0.

A *tile* is a few consecutive rows that share an adapter: (slot, first row, number of rows).
A *column block* is a few consecutive output columns of one target: (table column of the target,
first column within it, its out features, first column within the site's output).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorax_serve.kernels.lora import BASE_SLOT, LoraSite, Segments

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

_ALIGNED_ELEMENTS = 8  # 16 bytes of a 16-bit type, the widest load


@dataclass(frozen=True, slots=True)
class LoraTable:
    """Which column of a table says what, for one model's sites."""

    sites: tuple[LoraSite, ...]  # entry i has index i
    first_targets: tuple[int, ...]  # by site, the number of its first target
    is_aligned: bool  # every matrix, and every row of one, starts at a multiple of 16 bytes

    @staticmethod
    def of(sites: Sequence[LoraSite]) -> "LoraTable":
        first_targets, sizes, end = [], list[int](), 0
        for site in sites:
            first_targets.append(end)
            end += len(site.targets)
            sizes += (site.in_features, *(target.out_features for target in site.targets))
        is_aligned = all(size % _ALIGNED_ELEMENTS == 0 for size in sizes)
        return LoraTable(tuple(sites), tuple(first_targets), is_aligned)

    @property
    def width(self) -> int:
        return 2 * len(self.sites) + 3 * self.num_targets

    @property
    def num_targets(self) -> int:
        return self.first_targets[-1] + len(self.sites[-1].targets)

    def site_column(self, site: LoraSite) -> int:
        return 2 * site.index

    def target_column(self, target: int) -> int:
        return 2 * len(self.sites) + 3 * target

    def row(
        self, start: int, a_offsets: Sequence[int], b_offsets: Sequence[int], ranks: Sequence[int]
    ) -> Int64s:
        """[width] int64 of a slab that begins at element `start`; its own offsets count from 0.

        `a_offsets` by site; `b_offsets` and `ranks` by target, rank 0 where untargeted.
        """
        row = np.zeros(self.width, dtype=np.int64)
        for site, first in zip(self.sites, self.first_targets, strict=True):
            num_ranks = 0
            for target in range(first, first + len(site.targets)):
                column = self.target_column(target)
                row[column : column + 3] = start + b_offsets[target], ranks[target], num_ranks
                num_ranks += ranks[target]
            column = self.site_column(site)
            row[column : column + 2] = start + a_offsets[site.index], num_ranks
        return row

    @property
    def offset_columns(self) -> Int32s:
        """Columns that hold offsets: they move with the start of the slab, the others do not."""
        sites = [self.site_column(site) for site in self.sites]
        targets = [self.target_column(target) for target in range(self.num_targets)]
        return np.array(sites + targets, dtype=np.int32)

    def column_blocks(self, site: LoraSite, width: int) -> Int32s:
        """[N, 4] int32: the site's output columns in blocks of at most `width`, none across two
        targets."""
        first = self.first_targets[site.index]
        blocks = [
            (self.target_column(number), column, target.out_features, target.out_start + column)
            for number, target in enumerate(site.targets, first)
            for column in range(0, target.out_features, width)
        ]
        return np.array(blocks, dtype=np.int32)


def tiles_of(segments: Segments, tile_rows: int) -> Int32s:
    """[N, 3] int32: every row that has an adapter, in tiles of at most `tile_rows`."""
    tiles = [
        (slot, row, min(tile_rows, stop - row))
        for slot, start, stop in zip(
            segments.slots, segments.indptr, segments.indptr[1:], strict=False
        )
        if slot != BASE_SLOT
        for row in range(start, stop, tile_rows)
    ]
    return np.array(tiles, dtype=np.int32).reshape(-1, 3)
