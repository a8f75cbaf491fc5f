"""Collectives that a gradient passes through: each forward's backward is the opposite placement change.

Shoeybi et al. 2019, "Megatron-LM", section 3 (f and g are `copy_to` and `reduce_from`); Korthikanti et al. 2022,
"Reducing activation recomputation", section 4.2 (the sequence-parallel pair). Gradients follow one convention: what is
replicated has the same gradient on every rank, what is partial or sharded has its own.

    forward            placement                backward
    copy_to            Replicate (identity)     all_reduce
    reduce_from        Partial -> Replicate     identity
    gather_from        Shard(d) -> Replicate    this rank's slice
    scatter_to         Replicate -> Shard(d)    all_gather
    all_gather_from    Shard(d) -> Replicate    reduce_scatter
    reduce_scatter_to  Partial -> Shard(d)      all_gather
    all_to_all         Shard(i) -> Shard(j)     all_to_all

Each backward calls the partner's forward, so second derivatives work too. A group of size 1 makes each the identity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from llmlab.arguments import instance, whole
from llmlab.comm.group import Group


def copy_to(x: Tensor, group: Group) -> Tensor:
    """Replicate, into a region where each rank uses x in its own way. Backward: Partial -> Replicate (all_reduce)."""
    _check("copy_to", x, group)
    return _CopyTo.apply(x, group)


def reduce_from(x: Tensor, group: Group) -> Tensor:
    """Partial -> Replicate (all_reduce). Backward: identity, for the gradient is the same on every rank."""
    _check("reduce_from", x, group)
    return _ReduceFrom.apply(x, group)


def gather_from(x: Tensor, group: Group, dim: int = -1) -> Tensor:
    """Shard(dim) -> Replicate, where all ranks go on alike. Backward: Replicate -> Shard(dim) (this rank's slice)."""
    _check("gather_from", x, group)
    return _GatherFrom.apply(x, group, _dim(x, dim, "gather_from"))


def scatter_to(x: Tensor, group: Group, dim: int = -1) -> Tensor:
    """Replicate -> Shard(dim): this rank's slice; nothing is sent. Backward: Shard(dim) -> Replicate (all_gather)."""
    return _ScatterTo.apply(x, group, _splits(x, group, dim, "scatter_to"))


def all_gather_from(x: Tensor, group: Group, dim: int = 0) -> Tensor:
    """Shard(dim) -> Replicate, where each rank goes its own way. Backward: Partial -> Shard(dim) (reduce_scatter)."""
    _check("all_gather_from", x, group)
    return _AllGatherFrom.apply(x, group, _dim(x, dim, "all_gather_from"))


def reduce_scatter_to(x: Tensor, group: Group, dim: int = 0) -> Tensor:
    """Partial -> Shard(dim). Backward: Shard(dim) -> Replicate (all_gather)."""
    return _ReduceScatterTo.apply(x, group, _splits(x, group, dim, "reduce_scatter_to"))


def all_to_all(x: Tensor, group: Group, split_dim: int, cat_dim: int) -> Tensor:
    """Shard(cat_dim) -> Shard(split_dim): cut x along split_dim, hand part j to rank j, join what comes along cat_dim.

    Backward: Shard(split_dim) -> Shard(cat_dim) (all_to_all).
    """
    return _AllToAll.apply(x, group, _splits(x, group, split_dim, "all_to_all"), _dim(x, cat_dim, "all_to_all"))


# --- the functions' two halves ----------------------------------------------------------------------------------------


class _CopyTo(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return reduce_from(grad, ctx.group), None


class _ReduceFrom(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.all_reduce(x.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return copy_to(grad, ctx.group), None


class _GatherFrom(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _gather(x, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return scatter_to(grad, ctx.group, ctx.dim), None, None


class _ScatterTo(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return x.chunk(group.size, dim)[group.rank].clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return gather_from(grad, ctx.group, ctx.dim), None, None


class _AllGatherFrom(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _gather(x, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return reduce_scatter_to(grad, ctx.group, ctx.dim), None, None


class _ReduceScatterTo(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        # the group's collectives work along dimension 0: bring dim there, and back
        return group.reduce_scatter(x.movedim(dim, 0).contiguous()).movedim(0, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return all_gather_from(grad, ctx.group, ctx.dim), None, None


class _AllToAll(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, split_dim: int, cat_dim: int) -> Tensor:
        ctx.group, ctx.split_dim, ctx.cat_dim = group, split_dim, cat_dim
        parts = [part.contiguous() for part in x.chunk(group.size, split_dim)]
        return torch.cat(group.all_to_all(parts), cat_dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return all_to_all(grad, ctx.group, ctx.cat_dim, ctx.split_dim), None, None, None


def _gather(x: Tensor, group: Group, dim: int) -> Tensor:
    return group.all_gather(x.movedim(dim, 0).contiguous()).movedim(0, dim).contiguous()


def _check(name: str, x: Tensor, group: Group) -> None:
    instance(name, "x", x, Tensor)
    instance(name, "group", group, Group, "world, or a Mesh's group")


def _dim(x: Tensor, dim: int, name: str) -> int:
    """Count the dimension from the front."""
    if not x.dim():
        raise ValueError(f"{name} works along a dimension of x and wants at least one, got a scalar: reshape(1) it")
    return whole(name, "dim", dim, least=-x.dim(), most=x.dim() - 1) % x.dim()


def _splits(x: Tensor, group: Group, dim: int, name: str) -> int:
    _check(name, x, group)
    dim = _dim(x, dim, name)
    if x.shape[dim] % group.size:
        raise ValueError(
            f"{name}: dimension {dim} of size {x.shape[dim]} does not split over {group.axis}={group.size}"
        )
    return dim
