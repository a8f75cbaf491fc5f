"""The paged KV cache's book-keeping: blocks of a few tokens, who uses them, and what full ones hold.

    tokens of a sequence    [The quick brown fox | jumps over the lazy | dog and]          block = 4
    its block table                   7                    2                9
    blocks                  0 1 [2] 3 4 5 6 [7] 8 [9] ...                                  any free block will do

No memory is kept for tokens that may never come: a sequence wastes less than one block, at its end (Kwon et al. 2023,
"PagedAttention"). A full block is known by the tokens in it and the block before it, so blocks that begin alike form a
tree (Zheng et al. 2024, "RadixAttention"; an edge here is a block). A block that nobody uses keeps what it holds until
its room is wanted: the one not used for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from llmlab.serving.requests import Sequence

Content = tuple[int, tuple[int, ...]]  # (serial number of the block before it, 0 at the start; the tokens in it)


class BlockPool:
    """All blocks of one cache. `available`: those that can be taken, empty ones and ones that only remember."""

    def __init__(self, blocks: int, block: int, reuse: bool = True):
        self.size, self.block, self.reuse = blocks, block, reuse
        self.users = [0] * blocks
        self.empty = list(range(blocks - 1, -1, -1))
        self.idle: OrderedDict[int, None] = OrderedDict()  # nobody's, and still holding something; longest idle first
        self.holds: dict[int, tuple[Content, int]] = {}  # block -> what it holds, and its serial number
        self.where: dict[Content, int] = {}
        self.serial = 0  # numbers are never given twice, so what followed an evicted block is not found again
        self.evictions = self.reused_tokens = 0

    @property
    def available(self) -> int:
        return len(self.empty) + len(self.idle)

    @property
    def used(self) -> int:
        return self.size - self.available

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block)

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Let a sequence have blocks for so many tokens; False, and nothing changed, where there are too few."""
        missing = self.blocks_for(tokens) - len(sequence.blocks)
        if missing > self.available:
            return False
        sequence.blocks += [self._take() for _ in range(missing)]
        return True

    def start(self, sequence: Sequence) -> None:
        """Give a sequence the blocks that hold how it begins. Its last token is computed anew: somebody must."""
        parent, most = 0, (len(sequence.tokens) - 1) // self.block if self.reuse else 0
        for i in range(most):
            block = self.where.get((parent, tuple(sequence.tokens[i * self.block : (i + 1) * self.block])))
            if block is None:
                break
            parent = self.holds[block][1]
            self.users[block] += 1
            self.idle.pop(block, None)
            sequence.blocks.append(block)
        sequence.registered, sequence.parent = len(sequence.blocks), parent
        sequence.computed = len(sequence.blocks) * self.block

    def register(self, sequence: Sequence) -> None:
        """Let others find the blocks that the sequence has filled."""
        while self.reuse and (sequence.registered + 1) * self.block <= sequence.computed:
            i = sequence.registered
            content = (sequence.parent, tuple(sequence.tokens[i * self.block : (i + 1) * self.block]))
            known = self.where.setdefault(content, sequence.blocks[i])
            if known == sequence.blocks[i]:
                self.serial += 1
                self.holds[known] = content, self.serial
            sequence.registered, sequence.parent = i + 1, self.holds[known][1]

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's blocks back. Its last ones fall idle first: others are likelier to begin alike."""
        for block in reversed(sequence.blocks):
            self.users[block] -= 1
            assert self.users[block] >= 0
            if not self.users[block]:
                if block in self.holds:
                    self.idle[block] = None
                else:
                    self.empty.append(block)
        sequence.blocks = []
        sequence.computed = sequence.registered = sequence.parent = sequence.drafted = 0

    def forget(self, running: Iterable[Sequence]) -> None:
        """Let nobody find what the blocks hold now: the weights it was computed with have changed."""
        self.empty += self.idle
        for table in (self.idle, self.holds, self.where):
            table.clear()
        for sequence in running:
            sequence.parent = -1  # what it fills from here on follows what nobody can find

    def unfilled(self, sequences: Iterable[Sequence]) -> int:
        """Count the places for tokens that are taken and hold none. Shared blocks are full, so none counts twice."""
        return sum(len(sequence.blocks) * self.block - sequence.computed for sequence in sequences)

    def _take(self) -> int:
        if self.empty:
            block = self.empty.pop()
        else:
            block, _ = self.idle.popitem(last=False)
            content, _ = self.holds.pop(block)
            del self.where[content]
            self.evictions += 1
        self.users[block] = 1
        return block
