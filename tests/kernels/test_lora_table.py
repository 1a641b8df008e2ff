"""The integers that lead a kernel to an adapter's matrices."""

import numpy as np
import pytest

from lorax_serve.kernels.lora import BASE_SLOT, LoraSite, LoraTarget, Segments
from lorax_serve.kernels.lora_table import LoraTable, tiles_of

SITES = (
    LoraSite(0, 16, (LoraTarget("q", 0, 24), LoraTarget("k", 24, 8))),
    LoraSite(1, 32, (LoraTarget("down", 0, 16),)),
)


def test_a_row_says_where_each_matrix_lies_and_at_which_rank() -> None:
    table = LoraTable.of(SITES)
    row = table.row(1000, a_offsets=(0, 200), b_offsets=(48, 120, 300), ranks=(3, 2, 0))
    assert len(row) == table.width == 2 * 2 + 3 * 3
    assert row[table.site_column(SITES[0]) :][:2].tolist() == [1000, 5]
    assert row[table.site_column(SITES[1]) :][:2].tolist() == [1200, 0]
    targets = [row[table.target_column(i) :][:3].tolist() for i in range(3)]
    assert targets == [[1048, 3, 0], [1120, 2, 3], [1300, 0, 0]]


def test_a_slab_elsewhere_has_the_same_row_but_for_its_offsets() -> None:
    table = LoraTable.of(SITES)
    here, there = (
        table.row(start, a_offsets=(0, 200), b_offsets=(48, 120, 300), ranks=(3, 2, 0))
        for start in (0, 1000)
    )
    here[table.offset_columns] += 1000
    assert np.array_equal(here, there)


@pytest.mark.parametrize("width", [1, 5, 8, 100])
def test_column_blocks_cover_every_column_once_and_no_two_targets(width: int) -> None:
    table = LoraTable.of(SITES)
    for site, first in zip(SITES, table.first_targets, strict=True):
        covered = []
        for target_column, start, out_features, y_column in table.column_blocks(site, width):
            number = (target_column - table.target_column(0)) // 3
            target = site.targets[number - first]
            assert out_features == target.out_features
            assert y_column == target.out_start + start
            stop = min(out_features, start + width)
            covered += range(y_column, y_column + stop - start)
        last = site.targets[-1]
        assert covered == list(range(last.out_start + last.out_features))


def test_sizes_that_are_no_multiple_of_a_wide_load_are_noticed() -> None:
    assert LoraTable.of(SITES).is_aligned
    odd = LoraSite(0, 16, (LoraTarget("head", 0, 32001),))
    assert not LoraTable.of((odd,)).is_aligned


def test_tiles_cover_rows_with_an_adapter_and_no_others() -> None:
    segments = Segments(indptr=(0, 3, 8, 9, 12), slots=(BASE_SLOT, 7, 2, BASE_SLOT))
    assert tiles_of(segments, 2).tolist() == [[7, 3, 2], [7, 5, 2], [7, 7, 1], [2, 8, 1]]
    nobody = tiles_of(Segments(indptr=(0, 4), slots=(BASE_SLOT,)), 2)
    assert nobody.shape == (0, 3) and nobody.dtype == np.int32
