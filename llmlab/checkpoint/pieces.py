"""Where in a whole tensor the numbers of a rank belong.

    whole [6, 4], split along 0 over tp=2       Piece(dim=0, start=3, part=3, begin=4, end=8)
      row 0  . . . .
      row 1  . . . .                            rank tp=1 has the slab of rows 3 to 5, and ZeRO has cut that slab,
      row 2  . . . .                            flattened, into pieces: this one has its elements 4 to 7
      row 3  . . . .
      row 4  x x x x
      row 5  . . . .

A slab that would reach beyond the whole is filled up with zeros, as `parallel.placement.Shard` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, order=True)
class Piece:
    """Elements [begin, end) of a flattened slab: `part` wide along `dim` from `start` on. dim -1: the slab is all."""

    dim: int
    start: int
    part: int
    begin: int
    end: int

    @property
    def slab(self) -> tuple[int, int, int]:
        return self.dim, self.start, self.part

    def shape(self, whole: Sequence[int]) -> list[int]:
        """Of the slab, in a tensor of this shape."""
        return list(whole) if self.dim < 0 else [*whole[: self.dim], self.part, *whole[self.dim + 1 :]]

    def take(self, whole: Tensor) -> Tensor:
        """Cut this piece out of a whole tensor: flat."""
        if self.dim < 0:
            return whole.reshape(-1)[self.begin : self.end]
        slab = whole.new_zeros(self.shape(whole.shape))
        found = whole.narrow(self.dim, *self._found(whole.shape[self.dim]))
        slab.narrow(self.dim, 0, found.shape[self.dim]).copy_(found)
        return slab.view(-1)[self.begin : self.end]

    def _found(self, size: int) -> tuple[int, int]:
        """Where the slab begins in the whole, and how much of it is no filling."""
        start = min(self.start, size)
        return start, min(self.part, size - start)


def all_of(shape: Sequence[int]) -> Piece:
    """The piece that is the whole."""
    return Piece(-1, 0, 0, 0, math.prod(shape))


def whole_of(
    what: str, shape: Sequence[int], dtype: torch.dtype, pieces: Sequence[Piece], read: Callable[[int], Tensor]
) -> Tensor:
    """Put a tensor together. read: from a piece's number to its elements, flat. ValueError where any are missing."""
    whole = torch.empty(list(shape), dtype=dtype)
    covered: dict[int, int] = {}  # along a slab's dim: from here to there
    for slab in sorted({piece.slab for piece in pieces}):
        mine = sorted((piece, i) for i, piece in enumerate(pieces) if piece.slab == slab)
        first = mine[0][0]
        flat = torch.empty(math.prod(first.shape(shape)), dtype=dtype)
        _check_cover(what, [(piece.begin, piece.end) for piece, _ in mine], flat.numel())
        for piece, i in mine:
            flat[piece.begin : piece.end] = read(i)
        values = flat.view(first.shape(shape))
        if first.dim < 0:
            return values
        start, length = first._found(shape[first.dim])
        whole.narrow(first.dim, start, length).copy_(values.narrow(first.dim, 0, length))
        covered[start] = start + length
    dim = max(pieces[0].dim, 0) if pieces else 0
    _check_cover(what, sorted(covered.items()), shape[dim] if shape else 1)
    return whole


def _check_cover(what: str, spans: Sequence[tuple[int, int]], size: int) -> None:
    """Refuse pieces that leave a gap, or reach into each other."""
    end = 0
    for start, stop in spans:
        if start != end and stop > start:
            raise ValueError(f"{what} wants pieces that join, the next from {end} on; got one from {start} to {stop}")
        end = max(end, stop)
    if end != size:
        raise ValueError(f"{what} wants pieces of all {size} elements, got them up to {end}")


def as_record(piece: Piece) -> list[int]:
    return [piece.dim, piece.start, piece.part, piece.begin, piece.end]


def of_record(record: Any) -> Piece:
    return Piece(*(int(number) for number in record))
