"""What is copied from the host is all of it, and nothing beside it."""

import pytest
import torch

from devices import DEVICES
from lorax_serve.kernels.triton.host_copy import copy_from_host


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num", [1, 1023, 1024, 5000])
def test_every_element_arrives_and_no_other_changes(num: int, device: torch.device) -> None:
    source = torch.arange(6000, dtype=torch.int32, pin_memory=device.type == "cuda")
    destination = torch.full((6000,), -1, dtype=torch.int32, device=device)
    copy_from_host(source[:num], destination[:num])
    assert destination[:num].tolist() == list(range(num))
    assert (destination[num:] == -1).all()
