"""Who owns which KV block, and which free blocks still hold a known prefix.

A block is *used* while at least one sequence refers to it, otherwise *free*; a free block may keep
its key and be found again until it is handed out for something else. At all times
free + used == total.
"""

from collections import OrderedDict

from lorax_serve.engine.errors import OutOfBlocks


class BlockAllocator:
    """Reference-counted blocks with least-recently-freed reuse. Pure bookkeeping, no tensors."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_refs = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._block_of_key: dict[bytes, int] = {}
        # First out is the front: blocks without a key, then the longest-free ones.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def allocate(self) -> int:
        """A block with one reference and no key. Raises OutOfBlocks."""
        if not self._free:
            raise OutOfBlocks
        block, _ = self._free.popitem(last=False)
        self._forget_key(block)
        self._num_refs[block] = 1
        return block

    def acquire(self, key: bytes) -> int | None:
        """The block known under `key`, with one more reference; None if there is none."""
        block = self._block_of_key.get(key)
        if block is None:
            return None
        if self._num_refs[block] == 0:
            del self._free[block]
        self._num_refs[block] += 1
        return block

    def is_last_reference(self, block: int) -> bool:
        """Whether one release would free the block."""
        return self._num_refs[block] == 1

    def release(self, block: int) -> None:
        """Give back one reference."""
        assert self._num_refs[block] > 0, f"block {block} released while free"
        self._num_refs[block] -= 1
        if self._num_refs[block] == 0:
            self._free[block] = None
            if self._keys[block] is None:
                self._free.move_to_end(block, last=False)

    def register(self, block: int, key: bytes) -> None:
        """Make a used, completely written block findable. The first block of a key keeps it."""
        assert self._num_refs[block] > 0, f"block {block} registered while free"
        if key not in self._block_of_key and self._keys[block] is None:
            self._block_of_key[key] = block
            self._keys[block] = key

    def _forget_key(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._block_of_key[key]
            self._keys[block] = None

    def check_integrity(self) -> None:
        """Assert that the ledger adds up."""
        free = {block for block, refs in enumerate(self._num_refs) if refs == 0}
        assert free == set(self._free), "free list and reference counts disagree"
        assert self.num_free + self.num_used == self.num_blocks
        for key, block in self._block_of_key.items():
            assert self._keys[block] == key, f"block {block} is known under a key it lost"
