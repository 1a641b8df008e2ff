import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.block_allocator import BlockAllocator
from lorax_serve.engine.errors import OutOfBlocks


def test_an_empty_allocator_says_so() -> None:
    allocator = BlockAllocator(2)
    allocator.allocate()
    allocator.allocate()
    with pytest.raises(OutOfBlocks):
        allocator.allocate()


def test_a_freed_block_is_found_again_until_it_is_reused() -> None:
    allocator = BlockAllocator(2)
    block = allocator.allocate()
    allocator.register(block, b"prefix")
    allocator.release(block)
    assert allocator.num_free == 2
    assert allocator.acquire(b"prefix") == block
    assert allocator.num_used == 1
    allocator.release(block)
    allocator.allocate()
    allocator.allocate()
    assert allocator.acquire(b"prefix") is None


def test_blocks_without_a_key_are_reused_first_then_the_longest_free() -> None:
    allocator = BlockAllocator(3)
    first, second, plain = (allocator.allocate() for _ in range(3))
    allocator.register(first, b"first")
    allocator.register(second, b"second")
    for block in (first, second, plain):
        allocator.release(block)
    assert [allocator.allocate() for _ in range(3)] == [plain, first, second]


def test_a_shared_block_stays_used_until_the_last_reference_goes() -> None:
    allocator = BlockAllocator(1)
    block = allocator.allocate()
    allocator.register(block, b"k")
    assert allocator.acquire(b"k") == block
    allocator.release(block)
    assert allocator.num_free == 0
    allocator.release(block)
    assert allocator.num_free == 1


def test_releasing_a_free_block_is_a_bug_that_is_noticed() -> None:
    allocator = BlockAllocator(1)
    block = allocator.allocate()
    allocator.release(block)
    with pytest.raises(AssertionError, match="released while free"):
        allocator.release(block)


@settings(derandomize=True, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("arkx"), st.integers(0, 5)), max_size=60))
def test_the_ledger_adds_up_after_any_history(history: list[tuple[str, int]]) -> None:
    allocator = BlockAllocator(4)
    held: list[int] = []
    for action, number in history:
        key = bytes([number])
        if action == "a" and allocator.num_free:
            held.append(allocator.allocate())
        elif action == "r" and held:
            allocator.release(held.pop(number % len(held)))
        elif action == "k" and held:
            allocator.register(held[number % len(held)], key)
        elif action == "x" and (block := allocator.acquire(key)) is not None:
            held.append(block)
        allocator.check_integrity()
        assert allocator.num_used == len(set(held))
