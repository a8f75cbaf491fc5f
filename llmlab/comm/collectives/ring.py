"""The ring: every rank talks to its two neighbours only, and each sends 2 (p-1)/p of its data: the least possible.

Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".

    rank 0 --> rank 1 --> rank 2 --> ... --> rank p-1 --> rank 0      chunk c travels once round being summed,
                                                                      then once more, complete
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmlab.comm.collectives.messages import average_, chunks_of, combine_, exchange, flat_copy, rows_shape
from llmlab.comm.group import Group


def all_reduce(group: Group, x: Tensor, op: str) -> Tensor:
    """Partial -> Replicate: a reduce-scatter, then an all-gather; 2 (p-1) steps of n/p elements."""
    flat = flat_copy(x)
    chunks = chunks_of(flat, group.size)
    reduce_around(group, chunks, op)
    gather_around(group, chunks)
    return flat.view(x.shape)


def reduce_scatter(group: Group, x: Tensor, op: str) -> Tensor:
    """Partial -> Shard(0) in p-1 steps of n/p elements."""
    chunks = chunks_of(flat_copy(x), group.size)
    reduce_around(group, chunks, op)
    return chunks[group.rank].clone().view(rows_shape(x, 1, group.size))


def all_gather(group: Group, x: Tensor) -> Tensor:
    """Shard(0) -> Replicate in p-1 steps of one shard."""
    result = x.new_empty(rows_shape(x, group.size))
    chunks = chunks_of(result.view(-1), group.size)
    chunks[group.rank].copy_(x.reshape(-1))
    gather_around(group, chunks)
    return result


def broadcast(group: Group, x: Tensor, root: int) -> Tensor:
    """One -> Replicate down a chain, in p chunks: a rank passes a chunk on while the next one arrives."""
    behind_root, sending = (group.rank - root) % group.size, []
    chunks = chunks_of(flat_copy(x), group.size)
    for i, chunk in enumerate(chunks):
        if chunk.numel() and behind_root > 0:
            chunks[i] = group.recv(chunk, (group.rank - 1) % group.size)
        if chunk.numel() and behind_root < group.size - 1:
            sending.append(group.isend(chunks[i], (group.rank + 1) % group.size))
    for handle in sending:
        handle.wait()
    return torch.cat(chunks).view(x.shape)


def reduce_around(group: Group, chunks: list[Tensor], op: str) -> None:
    """Reduce-scatter: after p-1 steps chunk `rank` is complete here; the others hold partial sums."""
    p, rank = group.size, group.rank
    for step in range(1, p):
        outgoing, incoming = chunks[(rank - step) % p], chunks[(rank - step - 1) % p]
        combine_(incoming, exchange(group, outgoing, (rank + 1) % p, incoming, (rank - 1) % p), op)
    average_(chunks[rank], op, p)


def gather_around(group: Group, chunks: list[Tensor]) -> None:
    """All-gather: chunk `rank` is complete here; after p-1 steps all are."""
    p, rank = group.size, group.rank
    for step in range(p - 1):
        outgoing, incoming = chunks[(rank - step) % p], chunks[(rank - step - 1) % p]
        incoming.copy_(exchange(group, outgoing, (rank + 1) % p, incoming, (rank - 1) % p))
