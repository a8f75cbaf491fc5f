"""Compressed gradients: each rank sends a short version of its gradient and remembers what it left out.

    x = gradient + residual          what was left out before is tried again: error feedback
    sent = C(x)
    residual = x - sent
    gradient <- mean of all ranks' sent

    TopK        the k largest entries, and where they are            Stich et al. 2018, "Sparsified SGD with memory"
    EightBit    a byte an entry, and a scale for each block          Dettmers et al. 2022, section 2.1: block-wise

Without the residual a biased C may never arrive (Karimireddy et al. 2019, "Error feedback fixes SignSGD"). Every rank
receives what all the others sent, where a ring all_reduce moves twice the gradient, however many they are: C must
shorten by more than half the number of ranks to pay. Seam: `optimizer.step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from llmlab.arguments import flag, real, whole
from llmlab.comm.group import Group
from llmlab.parallel.local_sgd import begin_alike, by_dtype


class Compressor(Protocol):
    """Shortens a vector. The parts' shapes may depend on the vector's length only, so that ranks agree in them."""

    def compress(self, x: Tensor) -> tuple[Tensor, ...]:
        """Make the parts that travel from a vector [n]."""

    def restore(self, parts: tuple[Tensor, ...], n: int) -> Tensor:
        """Make the vector [n], or what is left of it, from its parts."""


@dataclass(frozen=True)
class TopK:
    """Keep the largest `share` of the entries, at least one: k values and k positions of 4 bytes each."""

    share: float = 0.01

    def __post_init__(self) -> None:
        real("TopK", "share (of the entries)", self.share, above=0, most=1)

    def compress(self, x: Tensor) -> tuple[Tensor, Tensor]:
        where = x.abs().topk(ceil(self.share * len(x))).indices
        return x[where], where.int()

    def restore(self, parts: tuple[Tensor, ...], n: int) -> Tensor:
        values, where = parts
        return values.new_zeros(n).index_copy(0, where.long(), values)


@dataclass(frozen=True)
class EightBit:
    """Round each entry to one of 255 steps between minus and plus its block's largest: n bytes and a scale per block.

    Blocks keep one large entry from making all the others zero. The steps are equal here; Dettmers' are finer near 0.
    """

    block: int = 256

    def __post_init__(self) -> None:
        whole("EightBit", "block (in entries)", self.block, least=1)

    def compress(self, x: Tensor) -> tuple[Tensor, Tensor]:
        blocks = pad(x, (0, -len(x) % self.block)).view(-1, self.block)
        largest = blocks.abs().amax(1)
        step = torch.where(largest > 0, largest, 1.0) / 127  # a block of zeros has no largest to divide by
        return (blocks / step[:, None]).round().to(torch.int8).flatten()[: len(x)], step

    def restore(self, parts: tuple[Tensor, ...], n: int) -> Tensor:
        steps, step = parts
        return steps * step.repeat_interleave(self.block)[:n]


def compress_gradients(
    optimizer: torch.optim.Optimizer, group: Group, compressor: Compressor, error_feedback: bool = True
) -> torch.optim.Optimizer:
    """Before each step average the gradients over the group, compressed; all begin with rank 0's weights.

    Edits the optimizer. All of a dtype's gradients are one vector. The residual is of the gradient, not of the step, so
    a learning rate that falls makes what is late weigh less than in the paper. Clip before the step, or the residual is
    clipped too.
    """
    flag("compress_gradients", "error_feedback", error_feedback)
    if isinstance(compressor, type) or not (hasattr(compressor, "compress") and hasattr(compressor, "restore")):
        raise ValueError(f"compress_gradients wants a compressor such as TopK(0.01), got {compressor!r}")
    buckets = by_dtype(begin_alike("compress_gradients", optimizer, group))
    residuals = [torch.zeros(sum(p.numel() for p in ps), dtype=ps[0].dtype, device=group.device) for ps in buckets]
    inner = optimizer.step

    def exchange_and_step() -> None:
        for parameters, residual in zip(buckets, residuals, strict=True):
            own = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
            mean = averaged(own, residual if error_feedback else None, group, compressor)
            for p, piece in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
                p.grad = piece.view_as(p)
        inner()

    optimizer.step = exchange_and_step  # type: ignore[method-assign, assignment]
    return optimizer


@torch.no_grad()
def averaged(x: Tensor, residual: Tensor | None, group: Group, compressor: Compressor) -> Tensor:
    """Partial -> Replicate: the mean of the ranks' compressed x [n]. Writes into the residual what is now left out."""
    x = x if residual is None else x + residual
    parts = compressor.compress(x)
    if residual is not None:
        residual.copy_(x - compressor.restore(parts, len(x)))
    everyone = [group.all_gather(part).chunk(group.size) for part in parts]
    mean = torch.zeros_like(x)
    for theirs in zip(*everyone, strict=True):
        mean += compressor.restore(theirs, len(x))
    return mean / group.size
