"""Blocks of the key/value cache and the prefix cache that lies in the same blocks.

A block holds `block_size` tokens. A full block is known by a hash of everything before and in it, chained from a root
made of the adapter and the salt, so equal prefixes of the same adapter and project find each other and nothing else
does. A block nobody refers to keeps its content, least recently used first out, until its room is needed.
"""

from array import array
from collections import OrderedDict
from hashlib import blake2b

from tunery.serving.sequence import Sequence


def root_hash(adapter_key: str, salt: str) -> bytes:
    return blake2b(f"{adapter_key}\0{salt}".encode(), digest_size=16).digest()


def chain_hash(parent: bytes, token_ids: list[int]) -> bytes:
    return blake2b(parent + array("I", token_ids).tobytes(), digest_size=16).digest()


class BlockPool:
    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        # Low ids last: a lightly used cache touches little memory.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._references = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # unreferenced but hashed, oldest first

    @property
    def num_available(self) -> int:
        """Blocks that can be had at once, be it by forgetting a cached one."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    @property
    def num_cached(self) -> int:
        return len(self._hash_of)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def match(self, sequence: Sequence, root: bytes) -> list[int]:
        """The cached blocks that hold the sequence's beginning. At least one token is left to compute, and of a scored
        prompt the one before the first whose log-probability is asked for.

        Takes no reference: follow it with `share` before anything is allocated.
        """
        found: list[int] = []
        most = sequence.num_tokens if sequence.scored_from is None else min(sequence.num_tokens, sequence.scored_from)
        for index in range((most - 1) // self.block_size):
            block = self._block_of.get(self._hash(sequence, root, index))
            if block is None:
                break
            found.append(block)
        return found

    def num_idle(self, blocks: list[int]) -> int:
        """How many of these are unreferenced, and so count as available until they are shared."""
        return sum(1 for block in blocks if self._references[block] == 0)

    def share(self, blocks: list[int]) -> None:
        for block in blocks:
            self._idle.pop(block, None)
            self._references[block] += 1

    def allocate(self, num_blocks: int) -> list[int]:
        """Fresh blocks with one reference each. The caller has looked at `num_available`."""
        assert num_blocks <= self.num_available, "allocate() without room"
        return [self._take() for _ in range(num_blocks)]

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._hash_of.pop(block)]
        self._references[block] = 1
        return block

    def release(self, blocks: list[int]) -> None:
        """Give references back. Ends go first, so that of a cached prefix the tail is forgotten before the head."""
        for block in reversed(blocks):
            self._references[block] -= 1
            assert self._references[block] >= 0, f"block {block} released twice"
            if self._references[block] == 0:
                if block in self._hash_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def remember(self, sequence: Sequence, root: bytes, num_tokens: int) -> None:
        """Make the full blocks among the sequence's first `num_tokens` tokens findable."""
        for index in range(num_tokens // self.block_size):
            block = sequence.block_table[index]
            if block in self._hash_of:
                continue
            digest = self._hash(sequence, root, index)
            if digest not in self._block_of:  # a twin computed at the same time stays private
                self._hash_of[block] = digest
                self._block_of[digest] = block

    def forget(self, blocks: list[int]) -> None:
        """Make blocks in use unfindable: their content is no good."""
        for block in blocks:
            digest = self._hash_of.pop(block, None)
            if digest is not None:
                del self._block_of[digest]

    def forget_all(self) -> None:
        """Drop every cached prefix, for instance because a forward pass failed half-way."""
        self._block_of.clear()
        self._hash_of.clear()
        self._free.extend(self._idle)
        self._idle.clear()

    def _hash(self, sequence: Sequence, root: bytes, index: int) -> bytes:
        known = sequence.block_hashes
        while len(known) <= index:
            start = len(known) * self.block_size
            parent = known[-1] if known else root
            known.append(chain_hash(parent, sequence.token_ids[start : start + self.block_size]))
        return known[index]

    def check(self, tables: list[list[int]]) -> None:
        """Assert conservation: every block is free, idle or referenced exactly by the given tables."""
        counts = [0] * self.num_blocks
        for table in tables:
            assert len(set(table)) == len(table), "a table names a block twice"
            for block in table:
                counts[block] += 1
        assert counts == self._references, "references and tables disagree"
        free, idle = set(self._free), set(self._idle)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & idle
        assert all(counts[block] == 0 for block in free | idle), "a used block is free"
        assert len(free) + len(idle) + sum(1 for count in counts if count) == self.num_blocks, "a block is lost"
        assert idle <= set(self._hash_of), "an idle block without a hash is unreachable"
        assert not free & set(self._hash_of), "a free block is still findable"
        assert {self._block_of[digest] for digest in self._hash_of.values()} == set(self._hash_of)
