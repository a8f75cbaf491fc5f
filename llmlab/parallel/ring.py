"""Ring attention: queries stay, keys and values go round the ranks, each rank adds one block after another.

    step 0     rank 0: q0 x kv0    rank 1: q1 x kv1    rank 2: q2 x kv2
    step 1     rank 0: q0 x kv2    rank 1: q1 x kv0    rank 2: q2 x kv1       kv moves on while a block is computed
    step 2     rank 0: q0 x kv1    rank 1: q1 x kv2    rank 2: q2 x kv0

Liu et al. 2023, "Ring attention with blockwise Transformers", section 3. Under causal attention some blocks lie wholly
in the future and are not computed; which rank holds which tokens then decides who waits for whom:

    contiguous   rank i holds the i-th part: the last rank computes c blocks, the first one
    zigzag       rank i holds slices i and 2c-1-i of 2c: every rank computes half a block, every step (Llama team 2024,
                 "The Llama 3 herd of models", section 3.3.2)
    striped      rank i holds every c-th token: half of every block (Brandon et al. 2023, "Striped attention")

Seam: `attend`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llmlab.comm.call import Done, Handle
from llmlab.comm.group import Group
from llmlab.parallel.blockwise import accumulator, attention, attention_backward

ORDERS = ("zigzag", "contiguous", "striped")
ALL = slice(None)


@dataclass(frozen=True)
class Tile:
    """Some of this rank's queries and some of one owner's keys. causal: the i-th query sees the first i keys only.

    counted: FLOPs of causal attention are counted over the whole T x T throughout the library, so a block below the
    diagonal counts for its mirror image too, which nobody computes.
    """

    queries: slice
    keys: slice
    causal: bool
    counted: int


def tile_of(order: str, causal: bool, rank: int, owner: int, size: int, length: int) -> Tile | None:
    """Say what of this rank's queries x the owner's keys has to be computed; None where all of it lies in the future.

    length: tokens a rank holds.
    """
    if not causal:
        return Tile(ALL, ALL, causal=False, counted=1)
    if owner == rank:  # every order keeps its own tokens in sequence
        return Tile(ALL, ALL, causal=True, counted=1)
    past, half = owner < rank, length // 2
    if order == "zigzag":
        # an earlier owner's first slice is past to both of ours; both of a later one's are past to our second
        queries, keys = (ALL, slice(half)) if past else (slice(half, length), ALL)
        return Tile(queries, keys, causal=False, counted=2)
    if order == "contiguous":
        return Tile(ALL, ALL, causal=False, counted=2) if past else None
    if past:
        return Tile(ALL, ALL, causal=True, counted=1)
    return Tile(slice(1, length), slice(length - 1), causal=True, counted=1) if length > 1 else None


def order_of(seq: int, rank: int, size: int, order: str, device: torch.device | None = None) -> Tensor:
    """The global numbers of the tokens that a rank holds, [seq / size], ascending."""
    if order == "striped":
        return torch.arange(rank, seq, size, device=device)
    if order == "contiguous" or size == 1:
        return torch.arange(rank * seq // size, (rank + 1) * seq // size, device=device)
    slices = torch.arange(seq, device=device).view(2 * size, -1)
    return torch.cat((slices[rank], slices[2 * size - 1 - rank]))


def attend_ring(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, *, group: Group, order: str
) -> Tensor:
    """Attend to the whole sequence, of which this rank holds the tokens `order_of` says. [B, h, t, K] -> same.

    k, v: [B, g, t, K].  mask: [B|1, h|1, t|1, T], its columns the whole sequence in its own order.  Raises ValueError,
    before anything is sent, for keys of another length than the queries, a mask of another shape, an odd t in zigzag.
    """
    check_whole(q, k, mask, group)
    if order == "zigzag" and group.size > 1 and q.shape[2] % 2:
        raise ValueError(f"zigzag wants two slices of one length on every rank, got {q.shape[2]} tokens")
    mask = None if mask is None else mask.expand(*mask.shape[:2], q.shape[2], -1)
    return _Ring.apply(q, k, v, mask, causal, group, order)


def check_whole(q: Tensor, k: Tensor, mask: Tensor | None, group: Group) -> None:
    t, T = q.shape[2], q.shape[2] * group.size
    if k.shape[2] != t:
        raise ValueError(f"context parallelism wants as many keys as queries on a rank, got {k.shape[2]} and {t}")
    if mask is not None and (mask.shape[-1] != T or mask.shape[-2] not in (1, t)):
        raise ValueError(
            f"a mask wants rows for the {t} tokens here and columns for all {T}, got {list(mask.shape[-2:])}"
        )


class _Ring(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, group: Group, order: str
    ) -> Tensor:
        ctx.causal, ctx.group, ctx.order = causal, group, order
        kv = torch.stack((k, v))  # [2, B, g, t, K]
        out, lse = q.new_empty(0), q.new_empty(0)  # the first block is this rank's own, and is every query's
        for owner in (turn := Circulating(kv, group)):
            tile = tile_of(order, causal, group.rank, owner, group.size, q.shape[2])
            if tile is None:
                continue
            rows, visible = tile.queries, mask_of(mask, tile, owner, ctx)
            more, more_lse = attention(q[:, :, rows], turn.held[:, :, :, tile.keys], visible, tile.causal, tile.counted)
            if owner == group.rank:
                out, lse = more.to(accumulator(q.dtype)), more_lse
            else:
                merge(out[:, :, rows], lse[:, :, rows], more, more_lse)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, kv, out, lse, mask)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (q, kv, out, lse, mask), group = ctx.saved_tensors, ctx.group
        wide, grad_q, grad_kv = accumulator(q.dtype), q.new_empty(0), q.new_empty(0)
        hop = stay(grad_kv)
        for owner in (turn := Circulating(kv, group)):
            tile = tile_of(ctx.order, ctx.causal, group.rank, owner, group.size, q.shape[2])
            if tile is not None:
                rows, visible = tile.queries, mask_of(mask, tile, owner, ctx)
                more_q, more_kv = attention_backward(
                    grad[:, :, rows], q[:, :, rows], turn.held[:, :, :, tile.keys], out[:, :, rows], lse[:, :, rows],
                    visible, tile.causal, tile.counted,
                )  # fmt: skip
            if owner == group.rank:
                grad_q, grad_kv = more_q.to(wide), more_kv.to(wide)
            else:
                grad_kv = hop.wait()  # the owner's, with what the ranks before this one had to say
                if tile is not None:
                    grad_q[:, :, rows] += more_q
                    grad_kv[:, :, :, tile.keys] += more_kv
            hop = pass_on(grad_kv, group)
        grad_k, grad_v = hop.wait().to(kv.dtype)  # after as many hops as ranks it is home
        return grad_q.to(q.dtype), grad_k, grad_v, None, None, None, None


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Add a block to the blocks so far, in place: out [B, h, n, K] and lse [B, h, n] as if they had been one."""
    share = torch.sigmoid(more_lse - lse).nan_to_num(0.0)  # nan: a row that has seen nothing, neither before nor now
    out.lerp_(more.to(out.dtype), share[..., None])
    lse.copy_(torch.logaddexp(lse, more_lse))


def mask_of(mask: Tensor | None, tile: Tile, owner: int, ctx: Any) -> Tensor | None:
    """Cut a block's part out of a mask over the whole sequence."""
    if mask is None:
        return None
    held = order_of(mask.shape[-1], owner, ctx.group.size, ctx.order, mask.device)[tile.keys]
    return mask[:, :, tile.queries].index_select(-1, held)


# --- round the ring ---------------------------------------------------------------------------------------------------


@dataclass
class Hop:
    """A tensor on its way to the next rank, and the previous rank's on its way here: wait for it once."""

    handles: tuple[Handle, ...]

    def wait(self) -> Tensor:
        handles, self.handles = self.handles, ()  # what was sent need not live any longer
        return [handle.wait() for handle in handles][-1]


def pass_on(x: Tensor, group: Group) -> Hop:
    """Begin to hand x to the next rank of the ring and to take the previous one's, of the same shape."""
    if group.size == 1:
        return stay(x)
    return Hop((group.isend(x, (group.rank + 1) % group.size), group.irecv(x, (group.rank - 1) % group.size)))


def stay(x: Tensor) -> Hop:
    """A hop that goes nowhere."""
    return Hop((Done(x),))


@dataclass
class Circulating:
    """Every rank's tensor in turn: iterate for its owner, this rank first; `held` is then the owner's.

    The next is on its way meanwhile. Take `held` where it is used: a name for it would keep it beyond its turn.
    """

    held: Tensor
    group: Group

    def __iter__(self) -> Iterator[int]:
        rank, size = self.group.rank, self.group.size
        for step in range(size):
            hop = pass_on(self.held, self.group) if step + 1 < size else stay(self.held)
            yield (rank - step) % size
            self.held = hop.wait()
