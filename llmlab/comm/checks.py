"""What a call of a group is checked for before anything is sent, so that bad input is one error on every rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from torch import Tensor

from llmlab.arguments import whole
from llmlab.comm.call import check_reduction

if TYPE_CHECKING:
    from llmlab.comm.group import Group


P = ParamSpec("P")


def _unheard(check: Callable[P, None]) -> Callable[P, None]:
    """A check looks at tensors' properties, each of which torch would report to a mode that listens (5 us a time)."""

    @wraps(check)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        with torch._C.DisableTorchFunction():
            check(*args, **kwargs)

    return checked


@_unheard
def tensor(group: Group, op: str, x: Any, *, takes: bool = False, rows: bool = False) -> None:
    """x is a dense tensor on this rank's device, whose gradient would not get lost. rows: it has a dimension 0."""
    _tensor(group, op, x, takes, rows)


def _tensor(group: Group, op: str, x: Any, takes: bool = False, rows: bool = False) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{op} wants a tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise ValueError(f"{op} wants a dense tensor, got {x.layout}")
    if x.device.type != group.device.type:
        raise ValueError(f"{op} wants a tensor on this rank's device ({group.device}), got one on {x.device}")
    if x.requires_grad and torch.is_grad_enabled() and not takes:
        raise ValueError(
            f"{op} wants a tensor without gradient, got one with requires_grad=True: its gradient would silently "
            "vanish. Use llmlab.comm.autograd, or detach() it"
        )
    if rows and x.dim() == 0:
        raise ValueError(f"{op} works along dimension 0 and wants at least one dimension, got a scalar: reshape(1) it")


@_unheard
def summand(group: Group, op: str, x: Any, reduce: str) -> None:
    """x is a tensor that can be reduced so."""
    _tensor(group, op, x)
    check_reduction(op, x, reduce)


def rank(group: Group, op: str, number: Any) -> None:
    """number is a rank of the group."""
    whole(op, "a rank of the group", number, least=0, most=group.size - 1)


def peer(group: Group, op: str, number: Any) -> None:
    """number is another rank of the group."""
    rank(group, op, number)
    if number == group.rank:
        raise ValueError(f"{op} wants another rank, got this one ({number})")


@_unheard
def splits(group: Group, op: str, x: Tensor) -> None:
    """x has as many rows on each rank."""
    if x.dim() == 0 or x.shape[0] % group.size:
        got = "a scalar" if x.dim() == 0 else f"size {x.shape[0]}"
        raise ValueError(f"{op} splits dimension 0 over {group.axis}={group.size}: it must divide, got {got}")


@_unheard
def output(group: Group, op: str, out: Any, x: Tensor, shape: Sequence[int]) -> None:
    """out is where a result of this shape, and of x's dtype, can be written."""
    _tensor(group, op, out, takes=True)
    if tuple(out.shape) != tuple(shape) or out.dtype != x.dtype:
        raise ValueError(
            f"{op} wants an output of shape {tuple(shape)} and {x.dtype}, got {tuple(out.shape)} and {out.dtype}"
        )


@_unheard
def parts(group: Group, op: str, xs: Any) -> None:
    """xs has a tensor for each rank, all of one dtype."""
    if not isinstance(xs, (list, tuple)) or len(xs) != group.size:
        got = f"one tensor of shape {tuple(xs.shape)}" if isinstance(xs, Tensor) else type(xs).__name__
        got = f"{len(xs)}" if isinstance(xs, (list, tuple)) else got
        raise ValueError(f"{op} wants a list with one tensor per rank ({group.size}), got {got}")
    for x in xs:
        _tensor(group, op, x)
    if len({x.dtype for x in xs}) > 1:
        raise ValueError(f"{op} wants one dtype, got {sorted({str(x.dtype) for x in xs})}")
