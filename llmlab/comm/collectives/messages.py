"""What every algorithm here is made of: a two-way exchange, a reduction of two tensors, the cut into chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from llmlab.comm.call import COMBINE
from llmlab.comm.group import Group


def exchange(group: Group, x: Tensor, dst: int, like: Tensor, src: int) -> Tensor:
    """Send x to dst and, meanwhile, take from src a tensor shaped as `like`.

    A plain send waits until it is taken: in a ring where all send first, nobody would. Hence isend, then recv. Chunks
    without elements (more ranks than elements) are not sent; both ends know it.
    """
    sending = group.isend(x, dst) if x.numel() else None
    received = group.recv(like, src) if like.numel() else like.clone()
    if sending is not None:
        sending.wait()  # only now may x be written again
    return received


def combine_(into: Tensor, other: Tensor, op: str) -> None:
    """Reduce two ranks' tensors into the first. For "avg" this is the sum; `average_` divides once, at the end."""
    COMBINE[op](into, other, out=into)


def average_(x: Tensor, op: str, size: int) -> None:
    """Turn a finished sum into the mean if that was asked for."""
    if op == "avg":
        x.div_(size)


def flat_copy(x: Tensor) -> Tensor:
    """Copy any tensor into one dimension, whatever its strides: the algorithms work in place on this copy."""
    return x.clone(memory_format=torch.contiguous_format).view(-1)


def chunk_bounds(numel: int, parts: int) -> list[int]:
    """Cut `numel` elements into parts as even as can be, longer ones first; part i is [bounds[i], bounds[i + 1])."""
    return [i * (numel // parts) + min(i, numel % parts) for i in range(parts + 1)]


def chunks_of(flat: Tensor, parts: int) -> list[Tensor]:
    """The parts themselves, as views."""
    bounds = chunk_bounds(flat.numel(), parts)
    return [flat[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def rows_shape(x: Tensor, numerator: int = 1, denominator: int = 1) -> tuple[int, ...]:
    """The shape of x with numerator / denominator times as many rows (dimension 0)."""
    return (x.shape[0] * numerator // denominator, *x.shape[1:])
