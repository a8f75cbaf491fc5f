"""The obvious ways: one rank talks to all the others, one after another; or everyone to everyone at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmlab.comm.collectives.header import receive_header, send_header
from llmlab.comm.collectives.messages import average_, chunks_of, combine_, exchange, flat_copy, rows_shape
from llmlab.comm.group import Group


def others(group: Group) -> list[int]:
    return [rank for rank in range(group.size) if rank != group.rank]


def broadcast(group: Group, x: Tensor, root: int) -> Tensor:
    """One -> Replicate: the root sends p-1 times."""
    if group.rank != root:
        return group.recv(x, root)
    for rank in others(group):
        group.send(x, rank)
    return x.clone()


def reduce(group: Group, x: Tensor, op: str, root: int) -> Tensor | None:
    """Partial -> One: the root takes p-1 tensors, in rank order."""
    if group.rank != root:
        group.send(x, root)
        return None
    total = flat_copy(x).view(x.shape)
    for rank in others(group):
        combine_(total, group.recv(x, rank), op)
    average_(total, op, group.size)
    return total


def all_reduce(group: Group, x: Tensor, op: str) -> Tensor:
    """Partial -> Replicate: rank 0 takes all, and gives all back. This is a parameter server without the parameters."""
    total = reduce(group, x, op, root=0)
    return broadcast(group, x if total is None else total, root=0)


def reduce_scatter(group: Group, x: Tensor, op: str) -> Tensor:
    """Partial -> Shard(0): everyone sends slice j to rank j, all at once."""
    slices = all_to_all(group, chunks_of(flat_copy(x), group.size))
    total = slices[0]
    for other in slices[1:]:
        combine_(total, other, op)
    average_(total, op, group.size)
    return total.view(rows_shape(x, 1, group.size))


def all_gather(group: Group, x: Tensor) -> Tensor:
    """Shard(0) -> Replicate: everyone sends its shard to everyone, all at once."""
    return torch.cat(all_to_all(group, [x] * group.size))


def gather(group: Group, x: Tensor, root: int) -> Tensor | None:
    """Shard(0) -> One: the root takes p-1 tensors."""
    if group.rank != root:
        group.send(x, root)
        return None
    return torch.cat([x if rank == root else group.recv(x, rank) for rank in range(group.size)])


def scatter(group: Group, x: Tensor | None, root: int) -> Tensor:
    """One -> Shard(0): the root sends p-1 slices, each preceded by its header."""
    if group.rank != root:
        shape, dtype = receive_header(group, root)
        return group.recv(torch.empty(shape, dtype=dtype, device=group.device), root)
    assert x is not None
    slices = x.tensor_split(group.size)
    for rank in others(group):
        send_header(group, slices[rank].shape, x.dtype, rank)
        group.send(slices[rank], rank)
    return slices[root].clone()


def all_to_all(group: Group, xs: Sequence[Tensor]) -> list[Tensor]:
    """Shard(i) -> Shard(j): everyone sends to everyone at once.

    What rank j has for this one is shaped as what this one has for rank j.
    """
    busy = [rank for rank in others(group) if xs[rank].numel()]
    receiving = {rank: group.irecv(xs[rank], rank) for rank in busy}
    sending = [group.isend(xs[rank], rank) for rank in busy]
    received = [receiving[rank].wait() if rank in receiving else x.clone() for rank, x in enumerate(xs)]
    for handle in sending:
        handle.wait()
    return received


def all_to_all_pairwise(group: Group, xs: Sequence[Tensor]) -> list[Tensor]:
    """Shard(i) -> Shard(j) in p-1 rounds; in round k everyone sends to the k-th rank after it, so no port is shared."""
    p, rank = group.size, group.rank
    received = [x.clone() for x in xs]
    for k in range(1, p):
        dst, src = (rank + k) % p, (rank - k) % p
        received[src] = exchange(group, xs[dst], dst, xs[src], src)
    return received
