"""Ids that are known, and ids taken from where the step before left them."""

import pytest
import torch

from devices import DEVICES
from lorax_serve.kernels.triton.input_ids import resolve_input_ids


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_rows", [1, 5, 1030])
def test_pending_ids_come_from_the_step_before(num_rows: int, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    ids = torch.randint(0, 1000, (num_rows,), generator=generator, dtype=torch.int32)
    sources = torch.randint(-2, 7, (num_rows,), generator=generator, dtype=torch.int32).clamp(-1)
    sampled = torch.arange(2000, 2007, dtype=torch.int32)
    expected = torch.where(sources >= 0, sampled[sources.clamp(min=0)], ids)
    got = resolve_input_ids(ids.to(device), sources.to(device), sampled.to(device))
    assert got.dtype == torch.int32 and torch.equal(got.cpu(), expected)
