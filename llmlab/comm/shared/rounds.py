"""Collectives as rounds: every rank writes its part into its slot and counts it up; the others see the count, and read.

Each rank has a few slots, used in turn, so that it can write the next round while others still read the last. What is
larger than a slot takes several rounds, which also keeps what one rank writes in the cache until another reads it. Two
counters for each rank say how far it has written and how far it has read: no more than these pass between the ranks.

    round          0        1        2 ...
    slot           0        1        0 ...       slot 0 is written again once all have read round 0
    rank 0         write .. read     write .. read
    rank 1              write .. read     write .. read

A rank that reads a round compares what its writer says it is (operation, reduction, dtype, bytes) with its own: ranks
that do not agree get an error and never each other's numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmlab.comm.shared.memory import Memory, lines
from llmlab.comm.shared.progress import Operation, Progress

SLOTS = 4
RANK_WORDS = 2 * lines(1 + SLOTS)  # of one rank: what it has written and what that is; what it has read


class Rounds(Operation):
    """A collective under way.

    count: its rounds, the same on every rank.  sources: the ranks whose parts this one reads.  put: write this rank's
    part of a round into its slot.  take: read a round's parts from the others' slots.  Both get the round's number in
    this operation and the slot's. needs: how many rounds must have been read before a round can be written.
    """

    def __init__(
        self,
        progress: Progress,
        board: Board,
        words: str,
        kind: int,
        results: list[Tensor],
        count: int,
        sources: Sequence[int],
        put: Callable[[int, int], None] | None,
        take: Callable[[int, int], None] | None,
        last: Callable[[], None] | None = None,
        needs: Callable[[int], int] | None = None,
    ):
        super().__init__(progress, board, words, results, board.limit_s)
        self.kind, self.count = kind, count
        self.sources = [board.written_at[rank] for rank in sources]
        self.put, self.take, self.last, self.needs = put, take, last, needs
        self.written = self.taken = 0


class Board:
    """One group's slots and counters, as one rank sees them."""

    def __init__(self, memory: Memory, rank: int, size: int, slot_bytes: int, data: int, limit_s: float):
        """data: where in the memory the slots begin."""
        self.memory, self.rank, self.size, self.slot_bytes, self._data = memory, rank, size, slot_bytes, data
        self.limit_s = limit_s
        self.processes: Sequence[int] = ()
        self.fence: Callable[[], None] = lambda: None
        self.written_at = [RANK_WORDS * each for each in range(size)]
        self._read_at = [at + lines(1 + SLOTS) for at in self.written_at]
        self._mine = self.written_at[rank]
        self._written = self._read = 0
        self._free = SLOTS  # rounds below this one may be written: all have read what was in their slots
        self._writing: deque[Rounds] = deque()
        self._reading: deque[Rounds] = deque()
        self._error: Exception | None = None

    def slot(self, rank: int, slot: int, dtype: torch.dtype, numel: int, after: int = 0) -> Tensor:
        """The numbers in a rank's slot, from `after` bytes on."""
        return self.memory.view(self._data + self.slot_bytes * (rank * SLOTS + slot) + after, dtype, numel)

    def add(self, operation: Rounds) -> None:
        """Queue a collective; it begins when the ones before it leave room."""
        if self._error is not None:
            raise self._error
        self._writing.append(operation)
        self._reading.append(operation)

    @property
    def busy(self) -> bool:
        return bool(self._reading)

    def advance(self) -> bool:
        moved = False
        while (self._writing and self._write(self._writing[0])) or (self._reading and self._take(self._reading[0])):
            moved = True
        return moved

    def fail(self, error: Exception) -> None:
        self._error = error
        self._writing.clear()
        while self._reading:
            self._reading.popleft().finish(error)

    def _write(self, operation: Rounds) -> bool:
        """Write the next round, if its slot is free and what it needs is there."""
        now = self._written
        if now >= self._free:
            words = self.memory.words
            self._free = min([words[at] for at in self._read_at]) + SLOTS
            if now >= self._free:
                return False
            self.fence()
        if operation.needs is not None and operation.needs(operation.written) > operation.taken:
            return False
        slot = now % SLOTS
        if operation.put is not None:
            operation.put(operation.written, slot)
        self.memory.words[self._mine + 1 + slot] = operation.kind
        self.fence()
        self._written = self.memory.words[self._mine] = now + 1
        operation.written += 1
        if operation.written == operation.count:
            self._writing.popleft()
        return True

    def _take(self, operation: Rounds) -> bool:
        """Read the next round, if all its writers have written it."""
        now, words = self._read, self.memory.words
        if now >= self._written:
            return False
        for at in operation.sources:
            if words[at] <= now:
                return False
        self.fence()
        slot = now % SLOTS
        for at in operation.sources:
            if words[at + 1 + slot] != operation.kind:
                raise self._mismatch(operation, at // RANK_WORDS, words[at + 1 + slot])
        if operation.take is not None:
            operation.take(operation.taken, slot)
        self.fence()
        self._read = words[self._read_at[self.rank]] = now + 1
        operation.taken += 1
        if operation.taken == operation.count:
            self._reading.popleft()
            if operation.last is not None:
                operation.last()
            operation.finish()
        return True

    def _mismatch(self, operation: Rounds, rank: int, kind: int) -> RuntimeError:
        return RuntimeError(
            f"ranks {self.rank} and {rank} of the group do not take part in the same operation: "
            f"{describe(operation.kind)} on the one, {describe(kind)} on the other"
        )


# --- what an operation is, in one word -------------------------------------------------------------------------------

_NAMES = ("barrier", "all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "gather", "scatter")
_DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
_NUMBER = {dtype: number for number, dtype in enumerate(_DTYPES)}
_REDUCTIONS = ("", "sum", "avg", "prod", "min", "max", "band", "bor", "bxor")


def kind_of(name: str, reduction: str, root: int, dtype: torch.dtype, nbytes: int) -> int:
    """In 63 bits: what all ranks of a collective must agree in."""
    parts = (_NAMES.index(name), 4), (_REDUCTIONS.index(reduction), 4), (root + 1, 12), (_NUMBER[dtype], 7)
    word = 0
    for part, bits in parts:
        word = word << bits | part
    return word << 36 | (nbytes & (1 << 36) - 1)


def describe(kind: int) -> str:
    """Read what `kind_of` wrote."""
    nbytes, kind = kind & (1 << 36) - 1, kind >> 36
    dtype, kind = _DTYPES[kind & 127], kind >> 7
    root, kind = (kind & 4095) - 1, kind >> 12
    reduction, name = _REDUCTIONS[kind & 15], _NAMES[kind >> 4 & 15]
    how = ", ".join(([reduction] if reduction else []) + ([f"root {root}"] if root >= 0 else []))
    return f"{name}{f'({how})' if how else ''}" + ("" if name == "barrier" else f" of {nbytes:,} bytes of {dtype}")
