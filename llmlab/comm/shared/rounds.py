"""Collectives as rounds: every rank writes its part into its slot and counts it up; the others see the count, and read.

Each rank has a few slots, used in turn, so that it can write the next round while others still read the last. What is
larger than a slot takes several rounds, which also keeps what one rank writes in the cache until another reads it. Two
counters for each rank say how far it has written and how far it has read: no more than these pass between the ranks.

    round          0        1        2 ...
    slot           0        1        2 ...       a slot is written again once all have read what was in it
    rank 0         write .. read     write .. read
    rank 1              write .. read     write .. read

A rank that reads a round compares what its writer says it is (operation, reduction, dtype, bytes) with its own: ranks
that do not agree get an error and never each other's numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmlab.comm.shared.memory import ORDERED, Memory, lines
from llmlab.comm.shared.works import Mover, Operation

SLOTS = 4
RANK_WORDS = 2 * lines(1 + SLOTS)  # of one rank: what it has written and what that is; what it has read
Step = Callable[[Any, int, int], None]  # the operation's tensors, the number of a round in it, and the round's slot


class Plan(NamedTuple):
    """One rank's part in collectives of one kind and size: made once, whatever tensors come.

    kind: what it is, in one word.  rounds: how many, the same on every rank.  sources: counters of the ranks whose
    parts this one reads.  put: write this rank's part of a round into its slot.  take: read a round's parts from the
    others' slots.  needs: how many rounds must have been read before a round can be written.
    """

    words: str
    kind: int
    rounds: int
    sources: Sequence[int]
    put: Step | None = None
    take: Step | None = None
    needs: Callable[[int], int] | None = None


class Rounds(Operation):
    """A collective under way, for which `Board.at_once` was not enough. last: brings the result home."""

    def __init__(
        self,
        mover: Mover,
        board: Board,
        plan: Plan,
        tensors: Any,
        results: list[Tensor],
        last: Callable[[], None] | None,
    ):
        super().__init__(mover, board, plan.words, results, board.limit_s)
        self.plan, self.tensors, self.last = plan, tensors, last
        self.written = self.taken = 0


class Board:
    """One group's slots and counters, as one rank sees them."""

    def __init__(self, memory: Memory, rank: int, size: int, slot_bytes: int, data: int, limit_s: float):
        """data: where in the memory the slots begin."""
        self.memory, self.rank, self.size, self.slot_bytes, self._data = memory, rank, size, slot_bytes, data
        self.limit_s = limit_s
        self.processes: Sequence[int] = ()
        self.written_at = [RANK_WORDS * each for each in range(size)]
        self._read_at = [at + lines(1 + SLOTS) for at in self.written_at]
        self._mine, self._my_read = self.written_at[rank], self._read_at[rank]
        self._written = self._read = 0
        self._free = SLOTS  # rounds below this one may be written: all have read what was in their slots
        self._writing: deque[Rounds] = deque()
        self._reading: deque[Rounds] = deque()
        self._error: Exception | None = None

    def slot(self, rank: int, slot: int, dtype: torch.dtype, numel: int, after: int = 0) -> Tensor:
        """The numbers in a rank's slot, from `after` bytes on."""
        return self.memory.view(self._data + self.slot_bytes * (rank * SLOTS + slot) + after, dtype, numel)

    def at_once(self, plan: Plan, tensors: Any, looks: int, pause: Callable[[], None] | None = None) -> bool | None:
        """Do a collective of one round here and now, as most are, without making an operation of it.

        looks: at the others' counters, with a pause after each.  False: others are before it, nothing was done.  None:
        this rank's part is written, the others' did not come in time.
        """
        now, memory = self._written, self.memory
        words = memory.words
        if self._reading or self._error is not None or (now >= self._free and not self._frees()):
            return False
        self._write_round(now, plan, tensors, 0)
        for at in plan.sources:
            while words[at] <= now:
                looks -= 1
                if looks < 0:
                    return None
                if pause is not None:
                    pause()
        self._read_round(now, plan, tensors, 0)
        return True

    def add(self, operation: Rounds) -> None:
        """Queue a collective; it begins when the ones before it leave room."""
        if self._error is not None:
            raise self._error
        if operation.written < operation.plan.rounds:
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

    def missing(self) -> tuple[Memory, int, int] | None:
        """The counter that holds up what is under way, and its value; None where none does any more."""
        words = self.memory.words
        if self._reading and self._read < self._written:
            for at in self._reading[0].plan.sources:
                if (value := words[at]) <= self._read:
                    return self.memory, at, value
        elif self._writing and self._written >= self._free:
            for at in self._read_at:
                if (value := words[at]) + SLOTS <= self._written:
                    return self.memory, at, value
        return None

    def fail(self, error: Exception) -> None:
        self._error = error
        self._writing.clear()
        while self._reading:
            self._reading.popleft().finish(error)

    def _write(self, operation: Rounds) -> bool:
        """Write the next round, if its slot is free and what it needs is there."""
        now, plan, k = self._written, operation.plan, operation.written
        if now >= self._free and not self._frees():
            return False
        if plan.needs is not None and plan.needs(k) > operation.taken:
            return False
        self._write_round(now, plan, operation.tensors, k)
        operation.written += 1
        if operation.written == plan.rounds:
            self._writing.popleft()
        return True

    def _take(self, operation: Rounds) -> bool:
        """Read the next round, if all its writers have written it."""
        now, words, plan = self._read, self.memory.words, operation.plan
        if now >= self._written:
            return False
        for at in plan.sources:
            if words[at] <= now:
                return False
        self._read_round(now, plan, operation.tensors, operation.taken)
        operation.taken += 1
        if operation.taken == plan.rounds:
            self._reading.popleft()
            if operation.last is not None:
                operation.last()
            operation.finish()
        return True

    def _frees(self) -> bool:
        """Whether the next round's slot may be written by now: all have read what was in it."""
        words = self.memory.words
        self._free = min([words[at] for at in self._read_at]) + SLOTS
        self.memory.fence()
        return self._written < self._free

    def _write_round(self, now: int, plan: Plan, tensors: Any, k: int) -> None:
        slot = now % SLOTS
        if plan.put is not None:
            plan.put(tensors, k, slot)
        self.memory.words[self._mine + 1 + slot] = plan.kind
        self._written = now + 1
        self.memory.count(self._mine, now + 1)

    def _read_round(self, now: int, plan: Plan, tensors: Any, k: int) -> None:
        memory, slot = self.memory, now % SLOTS
        if not ORDERED:
            memory.fence()
        for at in plan.sources:
            if memory.words[at + 1 + slot] != plan.kind:
                raise self._mismatch(plan.kind, at // RANK_WORDS, memory.words[at + 1 + slot])
        if plan.take is not None:
            plan.take(tensors, k, slot)
        self._read = now + 1
        memory.count(self._my_read, now + 1)

    def _mismatch(self, mine: int, rank: int, kind: int) -> RuntimeError:
        return RuntimeError(
            f"ranks {self.rank} and {rank} of the group do not take part in the same operation: "
            f"{describe(mine)} on the one, {describe(kind)} on the other"
        )


# --- what an operation is, in one word -------------------------------------------------------------------------------

_NAMES = (
    "barrier", "all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "gather", "scatter",
    "all_reduce in a buffer",
)  # fmt: skip
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
