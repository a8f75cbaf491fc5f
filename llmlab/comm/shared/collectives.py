"""Each collective in rounds: what a rank writes into its slot, and what it reads from the others'.

all_reduce       write x; add all                large and more than two: add my share of all, write it, read theirs
reduce           write x; the root adds all
  of x in a buffer (see `buffers`)               add my share of all into all, where they lie: nothing is written
broadcast        the root writes x; the others read
all_gather       write x; read all               gather: the root alone reads
reduce_scatter   write each other rank's part; add mine       scatter: the root alone writes, nothing is added
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmlab.comm.shared.buffers import ADDRESS, Buffer
from llmlab.comm.shared.rounds import SLOTS, Board, Plan, Step, kind_of
from llmlab.comm.shared.sums import combine

_BY_SHARES = 64 << 10  # bytes: from here on more than two ranks add a share each, instead of all adding all
_PART = 64 << 10  # numbers that are summed and handed on while they are in the core's own cache
_KEPT_PLANS = 500
Maker = Callable[..., Plan]


class Collectives:
    """Plans of one group's collectives, and the tensors that each wants, which come flat (see `tensors.py`)."""

    def __init__(self, board: Board):
        self._board, self._rank, self._size = board, board.rank, board.size
        self._everyone = tuple(range(board.size))
        self._others = tuple(rank for rank in self._everyone if rank != board.rank)
        self._counters = [board.written_at[rank] for rank in self._everyone]
        self._theirs = tuple(board.written_at[rank] for rank in self._others)
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def plan(self, maker: Maker, *key: Any) -> Plan:
        """The plan that one of the methods below makes of this key. Kept: programs repeat themselves."""
        whole = maker, *key
        found = self._plans.get(whole)
        if found is None:
            if len(self._plans) >= _KEPT_PLANS:
                self._plans.clear()
            found = self._plans[whole] = maker(self, *key)
        return found

    def forget(self) -> None:
        """Let go of all plans, and so of the memory that they refer to."""
        self._plans.clear()

    def barrier(self) -> Plan:
        return Plan("barrier", kind_of("barrier", "", -1, torch.uint8, 0), 1, self._theirs)

    def all_reduce(self, dtype: torch.dtype, numel: int, name: str) -> Plan:
        """tensors: x and the result's place, which may be x."""
        nbytes = numel * dtype.itemsize
        step, count = self._steps(dtype, numel)
        kind = kind_of("all_reduce", name, -1, dtype, nbytes)
        if self._size > 2 and nbytes >= _BY_SHARES:
            return self._all_reduce_by_shares(dtype, step, count, name, kind)
        terms = self._terms if count > 1 else self._kept_terms(dtype, numel)

        def put(tensors: tuple[Tensor, Tensor], k: int, slot: int) -> None:
            part = tensors[0] if count == 1 else _piece(tensors[0], k, step)
            terms(slot, dtype, part.numel())[self._rank].copy_(part)

        def take(tensors: tuple[Tensor, Tensor], k: int, slot: int) -> None:
            mine, out = tensors if count == 1 else (_piece(x, k, step) for x in tensors)
            found = terms(slot, dtype, out.numel())
            if self._size == 2:  # two numbers add alike in either order: mine need not be read back
                combine(name, (mine, found[1 - self._rank]), out)
            else:
                combine(name, found, out)

        return Plan("all_reduce", kind, count, self._theirs, put, take)

    def _all_reduce_by_shares(self, dtype: torch.dtype, step: int, count: int, name: str, kind: int) -> Plan:
        """Two rounds for each piece: all write it, and each adds its own share of it; all write their sums."""
        board, size, rank = self._board, self._size, self._rank

        def share(part: Tensor, of: int) -> tuple[int, int]:
            return part.numel() * of // size, part.numel() * (of + 1) // size

        def put(tensors: tuple[Tensor, Tensor], k: int, slot: int) -> None:
            part = _piece(tensors[k % 2], k // 2, step)
            if k % 2:
                start, stop = share(part, rank)
                part = part[start:stop]
            board.slot(rank, slot, dtype, part.numel()).copy_(part)

        def take(tensors: tuple[Tensor, Tensor], k: int, slot: int) -> None:
            part = _piece(tensors[1], k // 2, step)
            if k % 2:
                for other in self._others:
                    start, stop = share(part, other)
                    part[start:stop].copy_(board.slot(other, slot, dtype, stop - start))
            else:
                start, stop = share(part, rank)
                shares = [board.slot(r, slot, dtype, stop - start, start * dtype.itemsize) for r in self._everyone]
                combine(name, shares, part[start:stop])

        return Plan("all_reduce", kind, 2 * count, self._theirs, put, take, needs=lambda k: k if k % 2 else 0)

    def all_reduce_in_buffers(self, dtype: torch.dtype, numel: int, name: str) -> Plan:
        """tensors: x, which becomes the result, and its buffer. Each rank writes its share into all ranks' x.

        Nobody reads another's share, so the sum may go where its terms lie. The second round says that it is there.
        """
        start, stop = (numel * of // self._size for of in (self._rank, self._rank + 1))
        board, rank = self._board, self._rank

        def put(tensors: tuple[Tensor, Buffer], k: int, slot: int) -> None:
            if k == 0:
                x, buffer = tensors
                board.slot(rank, slot, torch.int64, ADDRESS).copy_(torch.tensor(buffer.address(x)))

        def take(tensors: tuple[Tensor, Buffer], k: int, slot: int) -> None:
            if k == 0:
                x, buffer = tensors
                addresses = [board.slot(other, slot, torch.int64, ADDRESS).tolist() for other in self._everyone]
                xs = [x if r == rank else buffer.other(at, dtype, numel) for r, at in enumerate(addresses)]
                for low in range(start, stop, _PART):
                    parts = [each[low : min(low + _PART, stop)] for each in xs]
                    combine(name, parts, parts[0])
                    for part in parts[1:]:
                        part.copy_(parts[0])

        kind = kind_of("all_reduce in a buffer", name, -1, dtype, numel * dtype.itemsize)
        return Plan("all_reduce", kind, 2, self._theirs, put, take, needs=lambda k: k)

    def reduce(self, dtype: torch.dtype, numel: int, name: str, root: int) -> Plan:
        """tensors: x, which becomes the result at the root."""
        step, count = self._steps(dtype, numel)

        def take(x: Tensor, k: int, slot: int) -> None:
            part = _piece(x, k, step)
            combine(name, self._terms(slot, dtype, part.numel()), part)

        kind = kind_of("reduce", name, root, dtype, numel * dtype.itemsize)
        put = self._write(dtype, step)
        if self._rank == root:
            return Plan("reduce", kind, count, self._theirs, put, take)
        return Plan("reduce", kind, count, (), put)

    def broadcast(self, dtype: torch.dtype, numel: int, root: int) -> Plan:
        """tensors: x, read at the root, written elsewhere."""
        step, count = self._steps(dtype, numel)

        def take(x: Tensor, k: int, slot: int) -> None:
            part = _piece(x, k, step)
            part.copy_(self._board.slot(root, slot, dtype, part.numel()))

        kind = kind_of("broadcast", "", root, dtype, numel * dtype.itemsize)
        if self._rank == root:
            return Plan("broadcast", kind, count, (), self._write(dtype, step))
        return Plan("broadcast", kind, count, (self._counters[root],), None, take)

    def all_gather(self, dtype: torch.dtype, longest: int, root: int = -1) -> Plan:
        """tensors: x and a place for each rank's, which may differ in size. root: the only one that has places."""
        step, count = self._steps(dtype, longest)
        write = self._write(dtype, step)

        def put(tensors: tuple[Tensor, Sequence[Tensor]], k: int, slot: int) -> None:
            write(tensors[0], k, slot)

        def take(tensors: tuple[Tensor, Sequence[Tensor]], k: int, slot: int) -> None:
            for other in self._others:
                part = _piece(tensors[1][other], k, step)
                if part.numel():
                    part.copy_(self._board.slot(other, slot, dtype, part.numel()))

        name = "all_gather" if root < 0 else "gather"
        kind = kind_of(name, "", root, dtype, longest * dtype.itemsize)
        if root in (-1, self._rank):
            return Plan(name, kind, count, self._theirs, put, take)
        return Plan(name, kind, count, (), put)

    def reduce_scatter(self, dtype: torch.dtype, numel: int, name: str) -> Plan:
        """tensors: the result's place, and a part for each rank, which shares no memory with it."""
        board, rank = self._board, self._rank
        step, count = self._steps(dtype, numel, self._size)
        after = rank * step * dtype.itemsize

        def take(tensors: tuple[Tensor, Sequence[Tensor]], k: int, slot: int) -> None:
            out, parts = tensors
            part = _piece(out, k, step)
            terms = [board.slot(r, slot, dtype, part.numel(), after) for r in self._others]
            terms.insert(rank, _piece(parts[rank], k, step))
            combine(name, terms, part)

        kind = kind_of("reduce_scatter", name, -1, dtype, numel * dtype.itemsize)
        return Plan("reduce_scatter", kind, count, self._theirs, self._write_parts(dtype, step), take)

    def scatter(self, dtype: torch.dtype, numel: int, root: int) -> Plan:
        """tensors: the result's place, and at the root a part for each rank."""
        step, count = self._steps(dtype, numel, self._size)
        after = self._rank * step * dtype.itemsize

        def take(tensors: tuple[Tensor, Sequence[Tensor]], k: int, slot: int) -> None:
            part = _piece(tensors[0], k, step)
            part.copy_(self._board.slot(root, slot, dtype, part.numel(), after))

        kind = kind_of("scatter", "", root, dtype, numel * dtype.itemsize)
        if self._rank != root:
            return Plan("scatter", kind, count, (self._counters[root],), None, take)
        return Plan("scatter", kind, count, (), self._write_parts(dtype, step))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _steps(self, dtype: torch.dtype, numel: int, parts: int = 1) -> tuple[int, int]:
        """Numbers in one round's piece, and how many rounds that takes. parts: pieces that share a slot."""
        room = self._board.slot_bytes // parts // 64 * 64 // dtype.itemsize
        if numel <= room:
            return numel, 1
        return room, -(-numel // room)

    def _terms(self, slot: int, dtype: torch.dtype, numel: int) -> list[Tensor]:
        """What all ranks have written into one of their slots, in the order of ranks."""
        return [self._board.slot(rank, slot, dtype, numel) for rank in self._everyone]

    def _kept_terms(self, dtype: torch.dtype, numel: int) -> Callable[[int, torch.dtype, int], list[Tensor]]:
        """The same, for one size: looked up once."""
        kept = [self._terms(slot, dtype, numel) for slot in range(SLOTS)]
        return lambda slot, dtype, numel: kept[slot]

    def _write(self, dtype: torch.dtype, step: int) -> Step:
        """Write the pieces of one tensor, which may have fewer than the longest."""

        def put(x: Tensor, k: int, slot: int) -> None:
            part = _piece(x, k, step)
            if part.numel():
                self._board.slot(self._rank, slot, dtype, part.numel()).copy_(part)

        return put

    def _write_parts(self, dtype: torch.dtype, step: int) -> Step:
        """Write a piece for each other rank, side by side."""

        def put(tensors: tuple[Tensor, Sequence[Tensor]], k: int, slot: int) -> None:
            for other in self._others:
                part = _piece(tensors[1][other], k, step)
                self._board.slot(self._rank, slot, dtype, part.numel(), other * step * dtype.itemsize).copy_(part)

        return put


def _piece(x: Tensor, k: int, step: int) -> Tensor:
    """The k-th piece of a flat tensor. The whole, where it is no longer: a slice takes as long as a small copy."""
    return x if k == 0 and x.numel() <= step else x[k * step : (k + 1) * step]
