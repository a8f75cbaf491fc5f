"""The binomial tree: log2(p) steps, so best for short messages; each carries everything, so worst for long ones.

Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH", section 3.
Ranks are counted from the root. Rank v hangs below the rank without v's lowest set bit; its subtree is
[v, v + lowest bit), which is why gather and scatter move whole blocks.

    p = 8:    0 -- 4, 2, 1      4 -- 6, 5      2 -- 3      6 -- 7
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmlab.comm.collectives.header import receive_header, send_header
from llmlab.comm.collectives.messages import average_, combine_, flat_copy, rows_shape
from llmlab.comm.group import Group


def broadcast(group: Group, x: Tensor, root: int) -> Tensor:
    """One -> Replicate: every step doubles the number of ranks that know."""
    v, parent, children = place(group, root)
    result = flat_copy(x) if v == 0 else group.recv(x.reshape(-1), parent)
    for child in children:  # the largest subtree first: it has furthest to go
        group.send(result, child)
    return result.view(x.shape)


def reduce(group: Group, x: Tensor, op: str, root: int) -> Tensor | None:
    """Partial -> One: the broadcast backwards."""
    v, parent, children = place(group, root)
    total = flat_copy(x)
    for child in reversed(children):  # the smallest subtree is ready first
        combine_(total, group.recv(total, child), op)
    if v != 0:
        group.send(total, parent)
        return None
    average_(total, op, group.size)
    return total.view(x.shape)


def all_reduce(group: Group, x: Tensor, op: str) -> Tensor:
    """Partial -> Replicate: up the tree, and down again."""
    total = reduce(group, x, op, root=0)
    return broadcast(group, x if total is None else total, root=0)


def gather(group: Group, x: Tensor, root: int) -> Tensor | None:
    """Shard(0) -> One: a rank hands up its subtree's tensors in one message."""
    v, parent, children = place(group, root)
    block = x.new_empty(subtree_size(v, group.size), x.numel())
    block[0] = x.reshape(-1)
    for child in reversed(children):
        start = (child - root) % group.size - v
        stop = start + subtree_size(v + start, group.size)
        block[start:stop] = group.recv(block[start:stop], child)
    if v != 0:
        group.send(block, parent)
        return None
    return block.roll(root, 0).view(rows_shape(x, group.size))  # from counted-from-the-root to the group's order


def scatter(group: Group, x: Tensor | None, root: int) -> Tensor:
    """One -> Shard(0): the gather backwards, each block preceded by its header."""
    v, parent, children = place(group, root)
    if v == 0:
        assert x is not None
        shape = torch.Size(rows_shape(x, 1, group.size))
        block = flat_copy(x).view(group.size, -1).roll(-root, 0)
    else:
        shape, dtype = receive_header(group, parent)
        like = torch.empty(subtree_size(v, group.size), shape.numel(), dtype=dtype, device=group.device)
        block = group.recv(like, parent)
    for child in children:
        start = (child - root) % group.size - v
        send_header(group, shape, block.dtype, child)
        group.send(block[start : start + subtree_size(v + start, group.size)], child)
    return block[0].clone().view(shape)


def place(group: Group, root: int) -> tuple[int, int, list[int]]:
    """Where this rank hangs: its count from the root, its parent and its children (ranks of the group)."""
    v = (group.rank - root) % group.size
    parent = v & (v - 1)  # without the lowest set bit
    return v, (parent + root) % group.size, [(child + root) % group.size for child in children_of(v, group.size)]


def children_of(v: int, size: int) -> list[int]:
    """The children of the v-th rank, the largest subtree first."""
    distance = (v & -v if v else 1 << (size - 1).bit_length()) >> 1
    children = []
    while distance:
        if v + distance < size:
            children.append(v + distance)
        distance >>= 1
    return children


def subtree_size(v: int, size: int) -> int:
    """How many ranks hang below the v-th one, itself included."""
    return min(v & -v, size - v) if v else size
