"""Tensors as callers have them, and as they travel: flat, contiguous, outside autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Back = Callable[[], None] | None  # brings a result from where it was made to where the caller wants it


def flat(x: Tensor) -> Tensor:
    """The same numbers in one dimension; shares memory where it can. Raises ValueError for what cannot travel."""
    if not x.is_cpu:
        raise ValueError(f"shared memory moves CPU tensors, got one on {x.device}: use backend nccl there")
    if x.layout is not torch.strided or x.is_quantized:
        what = "a quantized one" if x.is_quantized else x.layout
        raise ValueError(f"shared memory moves dense tensors, got {what}: use its values, or backend gloo")
    # unlike detach(), .data counts its own changes: what autograd has saved is not taken for changed, as with gloo
    x = _outside_inference(x) if x.is_inference() else x.data
    if x.is_conj() or x.is_neg():
        x = x.resolve_conj().resolve_neg()
    if x.dim() == 1 and x.is_contiguous():
        return x
    return x.contiguous().view(-1)


def landing(x: Tensor) -> tuple[Tensor, Back]:
    """Where a result for `x` can be written, holding what `x` holds; and what brings it home, if it is not there."""
    there = flat(x)
    if x.is_contiguous() and not (x.is_conj() or x.is_neg()):
        return there, None
    home = _outside_inference(x) if x.is_inference() else x.data

    def back() -> None:
        home.copy_(there.view(home.shape))

    return there, back


def same_memory(a: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether writing `a` may change one of the others."""
    mine = a.untyped_storage().data_ptr()
    return any(other.untyped_storage().data_ptr() == mine for other in others)


def together(backs: Sequence[Back]) -> Back:
    """One function for all of these."""
    todo = [back for back in backs if back is not None]
    if len(todo) < 2:
        return todo[0] if todo else None

    def all_back() -> None:
        for back in todo:
            back()

    return all_back


def _outside_inference(x: Tensor) -> Tensor:
    """The same memory as an ordinary tensor: another thread, which is not in inference mode, may have to write it."""
    with torch.inference_mode(False):
        return torch.empty(0, dtype=x.dtype).set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())
