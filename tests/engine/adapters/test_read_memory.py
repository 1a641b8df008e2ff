"""Memory is lent again only when nobody refers to it, whatever refers to it."""

import gc
from typing import cast

import torch

from lorax_serve.engine.adapters.read_memory import ReadMemory

LARGE = 3 * 2**20


def address(view: memoryview) -> int:
    return cast(int, torch.frombuffer(view, dtype=torch.uint8).data_ptr())


def test_memory_comes_back_once_the_last_view_is_gone() -> None:
    memory = ReadMemory(4)
    first = memory.take(LARGE)
    place = address(first)
    tensor = torch.frombuffer(first[8:16], dtype=torch.float32)
    tensor.fill_(1.0)
    del first
    gc.collect()
    other = memory.take(LARGE)
    assert address(other) != place, "a tensor still looks at the first"
    other[:] = b"\xff" * LARGE
    assert tensor.tolist() == [1.0, 1.0]
    del tensor
    gc.collect()
    assert address(memory.take(LARGE)) == place


def test_sizes_are_as_asked_and_waste_is_bounded() -> None:
    memory = ReadMemory(4)
    place = address(memory.take(4 * LARGE))
    small = memory.take(LARGE)
    assert len(small) == LARGE and address(small) != place
    again = memory.take(3 * LARGE)
    assert len(again) == 3 * LARGE and address(again) == place
    assert len(memory.take(10)) == 10 and len(memory.take(0)) == 0


def test_only_so_many_lie_idle() -> None:
    memory = ReadMemory(2)
    views = [memory.take(LARGE) for _ in range(5)]
    del views
    assert len(memory._idle) == 2
