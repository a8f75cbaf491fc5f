"""Recursive halving and doubling: the ring's bytes in the tree's number of steps.

Thakur, Rabenseifner and Gropp 2005, sections 3 and 4; Rabenseifner 2004. Ranks sit on the corners of a hypercube, one
corner per rank if p is a power of two. If not, the first pairs (0, 1), (2, 3) ... share a corner: the odd rank folds
its data into the even one before, and gets its result from it after.

    halving, p = 4:  distance 2: swap halves with corner ^ 2     keep 1/2, reduced over 2 corners
                     distance 1: swap quarters with corner ^ 1   keep 1/4, reduced over all      (doubling: backwards)
"""

from __future__ import annotations

from torch import Tensor

from llmlab.comm.collectives.messages import average_, chunk_bounds, combine_, exchange, flat_copy, rows_shape
from llmlab.comm.group import Group


def all_reduce(group: Group, x: Tensor, op: str) -> Tensor:
    """Partial -> Replicate in 2 log2(p) steps."""
    flat = flat_copy(x)
    halve(group, flat, op)
    double(group, flat)
    average_(flat, op, group.size)
    return flat.view(x.shape)


def reduce_scatter(group: Group, x: Tensor, op: str) -> Tensor:
    """Partial -> Shard(0) in log2(p) steps."""
    flat, rank = flat_copy(x), group.rank
    halve(group, flat, op)
    chunks = flat.view(group.size, -1)
    if folds(rank, group.size):
        result = group.recv(chunks[rank], rank - 1)
    else:
        result = chunks[rank].clone()
        if folds(rank + 1, group.size):
            group.send(chunks[rank + 1], rank + 1)
    average_(result, op, group.size)
    return result.view(rows_shape(x, 1, group.size))


def all_gather(group: Group, x: Tensor) -> Tensor:
    """Shard(0) -> Replicate in log2(p) steps."""
    result, rank = x.new_empty(rows_shape(x, group.size)), group.rank
    chunks = result.view(group.size, -1)
    chunks[rank] = x.reshape(-1)
    if folds(rank, group.size):
        group.send(chunks[rank], rank - 1)
    elif folds(rank + 1, group.size):
        chunks[rank + 1] = group.recv(chunks[rank + 1], rank + 1)
    double(group, result.view(-1))
    return result


def corners_of(size: int) -> list[int]:
    """The rank on each corner: the even ones of the pairs, then the ranks that are alone."""
    n_pair = size - (1 << size.bit_length() - 1)
    return [*range(0, 2 * n_pair, 2), *range(2 * n_pair, size)]


def folds(rank: int, size: int) -> bool:
    """Whether a rank shares the corner of the rank before it."""
    return rank < size and rank not in corners_of(size)


def corner_bounds(numel: int, size: int) -> list[int]:
    """Where each corner's part of the buffer begins: its rank's chunk, and the chunk of the rank that shares it."""
    bounds = chunk_bounds(numel, size)
    return [bounds[rank] for rank in [*corners_of(size), size]]


def halve(group: Group, flat: Tensor, op: str) -> None:
    """Reduce-scatter over the corners, in place: each ends with its own part complete."""
    if folds(group.rank, group.size):
        group.send(flat, group.rank - 1)
        return
    if folds(group.rank + 1, group.size):
        combine_(flat, group.recv(flat, group.rank + 1), op)
    corners, bounds = corners_of(group.size), corner_bounds(flat.numel(), group.size)
    corner, distance = corners.index(group.rank), len(corners) // 2
    while distance:
        kept = part(flat, bounds, corner, distance)
        given = part(flat, bounds, corner ^ distance, distance)
        partner = corners[corner ^ distance]
        combine_(kept, exchange(group, given, partner, kept, partner), op)
        distance //= 2


def double(group: Group, flat: Tensor) -> None:
    """All-gather over the corners, in place: each begins with its own part, and passes all on to who shares it."""
    if folds(group.rank, group.size):
        flat.copy_(group.recv(flat, group.rank - 1))
        return
    corners, bounds = corners_of(group.size), corner_bounds(flat.numel(), group.size)
    corner, distance = corners.index(group.rank), 1
    while distance < len(corners):
        held = part(flat, bounds, corner, distance)
        missing = part(flat, bounds, corner ^ distance, distance)
        partner = corners[corner ^ distance]
        missing.copy_(exchange(group, held, partner, missing, partner))
        distance *= 2
    if folds(group.rank + 1, group.size):
        group.send(flat, group.rank + 1)


def part(flat: Tensor, bounds: list[int], corner: int, distance: int) -> Tensor:
    """What the aligned block of `distance` corners around this one answers for."""
    first = corner // distance * distance
    return flat[bounds[first] : bounds[first + distance]]
