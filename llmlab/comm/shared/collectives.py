"""Each collective in rounds: what a rank writes into its slot, and what it reads from the others'.

all_reduce       write x; add all                large and more than two: add my share of all, write it, read theirs
reduce           write x; the root adds all
broadcast        the root writes x; the others read
all_gather       write x; read all               gather: the root alone reads
reduce_scatter   write each other rank's part; add mine       scatter: the root alone writes, nothing is added
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmlab.comm.shared.progress import Progress
from llmlab.comm.shared.rounds import Board, Rounds, kind_of
from llmlab.comm.shared.sums import combine

_SHARED_SUM = 64 << 10  # bytes: from here on more than two ranks each add a share, instead of each adding all
_kind = functools.lru_cache(4096)(kind_of)


class Collectives:
    """One group's collectives. Tensors come flat: contiguous and of one dimension (`process_group.py` sees to that).

    Every method makes an operation, to be begun in the same order on all ranks; `last` is called when it is done, to
    bring a result home.
    """

    def __init__(self, board: Board, progress: Progress):
        self._board, self._progress = board, progress
        self._rank, self._size = board.rank, board.size
        self._everyone = tuple(range(board.size))
        self._others = tuple(rank for rank in self._everyone if rank != board.rank)

    def barrier(self) -> Rounds:
        return self._operation("barrier", _kind("barrier", "", -1, torch.uint8, 0), [], 1, self._others, None, None)

    def all_reduce(self, x: Tensor, name: str, results: list[Tensor], last: Callable[[], None] | None) -> Rounds:
        board, size, rank = self._board, self._size, self._rank
        numel, dtype = x.numel(), x.dtype
        kind = _kind("all_reduce", name, -1, dtype, numel * dtype.itemsize)
        if size > 2 and numel * dtype.itemsize >= _SHARED_SUM:
            return self._all_reduce_by_shares(x, name, kind, results, last)
        step, count = self._steps(numel, dtype)

        def put(k: int, slot: int) -> None:
            part = _piece(x, k, step, count)
            board.slot(rank, slot, dtype, part.numel()).copy_(part)

        def take(k: int, slot: int) -> None:
            part = _piece(x, k, step, count)
            n = part.numel()
            if size == 2:  # two numbers add alike in either order: mine need not be read back
                combine(name, (part, board.slot(1 - rank, slot, dtype, n)), part)
            else:
                combine(name, [board.slot(r, slot, dtype, n) for r in self._everyone], part)

        return self._operation("all_reduce", kind, results, count, self._others, put, take, last)

    def _all_reduce_by_shares(
        self, x: Tensor, name: str, kind: int, results: list[Tensor], last: Callable[[], None] | None
    ) -> Rounds:
        """Two rounds for each piece: all write it, and each adds its own share of it; all write their sums."""
        board, size, rank, dtype = self._board, self._size, self._rank, x.dtype
        step, count = self._steps(x.numel(), dtype)

        def share(part: Tensor, of: int) -> tuple[int, int]:
            return part.numel() * of // size, part.numel() * (of + 1) // size

        def put(k: int, slot: int) -> None:
            part = _piece(x, k // 2, step, count)
            if k % 2:
                start, stop = share(part, rank)
                part = part[start:stop]
            board.slot(rank, slot, dtype, part.numel()).copy_(part)

        def take(k: int, slot: int) -> None:
            part = _piece(x, k // 2, step, count)
            if k % 2:
                for other in self._others:
                    start, stop = share(part, other)
                    part[start:stop].copy_(board.slot(other, slot, dtype, stop - start))
            else:
                start, stop = share(part, rank)
                after = start * dtype.itemsize
                combine(
                    name, [board.slot(r, slot, dtype, stop - start, after) for r in self._everyone], part[start:stop]
                )

        def needs(k: int) -> int:
            return k if k % 2 else 0

        return self._operation("all_reduce", kind, results, 2 * count, self._others, put, take, last, needs)

    def reduce(self, x: Tensor, name: str, root: int, results: list[Tensor], last: Callable[[], None] | None) -> Rounds:
        board, rank, dtype = self._board, self._rank, x.dtype
        step, count = self._steps(x.numel(), dtype)

        def put(k: int, slot: int) -> None:
            part = _piece(x, k, step, count)
            board.slot(rank, slot, dtype, part.numel()).copy_(part)

        def take(k: int, slot: int) -> None:
            part = _piece(x, k, step, count)
            combine(name, [board.slot(r, slot, dtype, part.numel()) for r in self._everyone], part)

        kind = _kind("reduce", name, root, dtype, x.numel() * dtype.itemsize)
        if rank != root:
            return self._operation("reduce", kind, results, count, (), put, None)
        return self._operation("reduce", kind, results, count, self._others, put, take, last)

    def broadcast(self, x: Tensor, root: int, results: list[Tensor], last: Callable[[], None] | None) -> Rounds:
        board, rank, dtype = self._board, self._rank, x.dtype
        step, count = self._steps(x.numel(), dtype)

        def put(k: int, slot: int) -> None:
            part = _piece(x, k, step, count)
            board.slot(rank, slot, dtype, part.numel()).copy_(part)

        def take(k: int, slot: int) -> None:
            part = _piece(x, k, step, count)
            part.copy_(board.slot(root, slot, dtype, part.numel()))

        kind = _kind("broadcast", "", root, dtype, x.numel() * dtype.itemsize)
        if rank == root:
            return self._operation("broadcast", kind, results, count, (), put, None)
        return self._operation("broadcast", kind, results, count, (root,), None, take, last)

    def all_gather(
        self, outs: Sequence[Tensor], x: Tensor, results: list[Tensor], last: Callable[[], None] | None, root: int = -1
    ) -> Rounds:
        """Every rank's x, which may differ in size, into its place in `outs`. root: the only one that wants them."""
        board, rank, dtype = self._board, self._rank, x.dtype
        wants = root in (-1, rank)
        longest = max((out.numel() for out in outs), default=0) if wants else x.numel()
        step, count = self._steps(longest, dtype)
        if wants and outs[rank].data_ptr() != x.data_ptr():
            outs[rank].copy_(x)

        def put(k: int, slot: int) -> None:
            part = _piece(x, k, step, count)
            if part.numel():
                board.slot(rank, slot, dtype, part.numel()).copy_(part)

        def take(k: int, slot: int) -> None:
            for other in self._others:
                part = _piece(outs[other], k, step, count)
                if part.numel():
                    part.copy_(board.slot(other, slot, dtype, part.numel()))

        name = "all_gather" if root < 0 else "gather"
        kind = _kind(name, "", root, dtype, longest * dtype.itemsize)
        if wants:
            return self._operation(name, kind, results, count, self._others, put, take, last)
        return self._operation(name, kind, results, count, (), put, None)

    def reduce_scatter(
        self, out: Tensor, parts: Sequence[Tensor], name: str, results: list[Tensor], last: Callable[[], None] | None
    ) -> Rounds:
        """The reduction of what all ranks have for this one. `out` shares no memory with `parts`."""
        board, size, rank, dtype = self._board, self._size, self._rank, out.dtype
        step, count = self._steps(out.numel(), dtype, size)

        def put(k: int, slot: int) -> None:
            for other in self._others:
                part = _piece(parts[other], k, step, count)
                board.slot(rank, slot, dtype, part.numel(), other * step * dtype.itemsize).copy_(part)

        def take(k: int, slot: int) -> None:
            part, after = _piece(out, k, step, count), rank * step * dtype.itemsize
            mine = _piece(parts[rank], k, step, count)
            combine(
                name,
                [mine if r == rank else board.slot(r, slot, dtype, part.numel(), after) for r in self._everyone],
                part,
            )

        kind = _kind("reduce_scatter", name, -1, dtype, out.numel() * dtype.itemsize)
        return self._operation("reduce_scatter", kind, results, count, self._others, put, take, last)

    def scatter(
        self, out: Tensor, parts: Sequence[Tensor], root: int, results: list[Tensor], last: Callable[[], None] | None
    ) -> Rounds:
        board, rank, dtype = self._board, self._rank, out.dtype
        step, count = self._steps(out.numel(), dtype, self._size)

        def put(k: int, slot: int) -> None:
            for other in self._others:
                part = _piece(parts[other], k, step, count)
                board.slot(rank, slot, dtype, part.numel(), other * step * dtype.itemsize).copy_(part)

        def take(k: int, slot: int) -> None:
            part = _piece(out, k, step, count)
            part.copy_(board.slot(root, slot, dtype, part.numel(), rank * step * dtype.itemsize))

        kind = _kind("scatter", "", root, dtype, out.numel() * dtype.itemsize)
        if rank != root:
            return self._operation("scatter", kind, results, count, (root,), None, take, last)
        out.copy_(parts[rank])
        return self._operation("scatter", kind, results, count, (), put, None, last)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _steps(self, numel: int, dtype: torch.dtype, parts: int = 1) -> tuple[int, int]:
        """Numbers in one round's piece, and how many rounds that takes. parts: pieces that share a slot."""
        room = self._board.slot_bytes // parts // 64 * 64 // dtype.itemsize
        if numel <= room:
            return numel, 1
        return room, -(-numel // room)

    def _operation(
        self,
        words: str,
        kind: int,
        results: list[Tensor],
        count: int,
        sources: Sequence[int],
        put: Callable[[int, int], None] | None,
        take: Callable[[int, int], None] | None,
        last: Callable[[], None] | None = None,
        needs: Callable[[int], int] | None = None,
    ) -> Rounds:
        return Rounds(self._progress, self._board, words, kind, results, count, sources, put, take, last, needs)


def _piece(x: Tensor, k: int, step: int, count: int) -> Tensor:
    """The k-th piece of a flat tensor. The whole, where there is one only: a slice takes as long as a small copy."""
    return x if count == 1 else x[k * step : (k + 1) * step]
