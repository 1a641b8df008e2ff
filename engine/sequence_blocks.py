"""The KV blocks of sequences: found in the prefix cache, grown block by block, given back."""

from lorax_serve.engine.block_allocator import BlockAllocator
from lorax_serve.engine.prefix_cache import block_key, root_key
from lorax_serve.engine.sequence import Sequence


class SequenceBlocks:
    """Keeps `sequence.block_table` in step with the allocator."""

    def __init__(self, allocator: BlockAllocator, *, block_size: int, prefix_cache: bool) -> None:
        self.allocator = allocator
        self.block_size = block_size
        self._prefix_cache = prefix_cache

    def num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks to add so that positions 0..num_tokens-1 have a place."""
        return -(-num_tokens // self.block_size) - len(sequence.block_table)

    def num_own(self, sequence: Sequence) -> int:
        """Blocks that would be free without the sequence."""
        return sum(self.allocator.is_last_reference(block) for block in sequence.block_table)

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Cover `num_tokens` positions; False, with nothing changed, when blocks are short."""
        num_missing = self.num_missing(sequence, num_tokens)
        if num_missing > self.allocator.num_free:
            return False
        sequence.block_table.extend(self.allocator.allocate() for _ in range(num_missing))
        return True

    def adopt_prefix(self, sequence: Sequence) -> None:
        """Start from the longest cached prefix. At least one token is left to compute, and all of
        a prompt of which every row is needed."""
        assert not sequence.block_table and sequence.num_computed == 0
        if not self._prefix_cache or sequence.needs_every_row:
            return
        for index in range((sequence.num_tokens - 1) // self.block_size):
            block = self.allocator.acquire(self._key(sequence, index))
            if block is None:
                break
            sequence.block_table.append(block)
        sequence.num_registered = len(sequence.block_table)
        sequence.num_computed = sequence.num_registered * self.block_size

    def register_computed(self, sequence: Sequence) -> None:
        """Offer every newly filled block, prompt or generated, to the prefix cache."""
        if not self._prefix_cache:
            return
        num_full = min(sequence.num_computed, sequence.num_known) // self.block_size
        for index in range(sequence.num_registered, num_full):
            self.allocator.register(sequence.block_table[index], self._key(sequence, index))
        sequence.num_registered = max(sequence.num_registered, num_full)

    def free(self, sequence: Sequence) -> None:
        """Give all blocks back; the deepest first, so that shared prefixes survive longest."""
        for block in reversed(sequence.block_table):
            self.allocator.release(block)
        sequence.block_table.clear()
        sequence.block_keys.clear()
        sequence.num_computed = 0
        sequence.num_registered = 0

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """The prefix-cache key of the sequence's block `index`; keys are computed once."""
        keys = sequence.block_keys
        while len(keys) <= index:
            parent = keys[-1] if keys else self._root_key(sequence)
            start = len(keys) * self.block_size
            keys.append(block_key(parent, sequence.tokens(start, start + self.block_size)))
        return keys[index]

    @staticmethod
    def _root_key(sequence: Sequence) -> bytes:
        digest = "" if sequence.slot is None else sequence.slot.digest
        return root_key(digest, sequence.cache_salt)
