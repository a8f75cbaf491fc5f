"""Buckets: many gradients in one message, because a message costs its latency however short it is.

Li et al. 2020, "PyTorch Distributed: experiences on accelerating data parallel training", section 3.2.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from llmlab.comm.call import Handle
from llmlab.comm.group import Group

MB = 2**20  # torch counts its buckets in these too
T = TypeVar("T", bound=Tensor)


def make_buckets(parameters: Iterable[T], bucket_mb: float = 25) -> list[list[T]]:
    """Group parameters in reverse order, about the order of their gradients; a bucket is full once it holds bucket_mb.

    A bucket has one dtype. The last one is what is left.
    """
    buckets: list[list[T]] = []
    room = 0.0
    for parameter in reversed(list(parameters)):
        if room <= 0 or parameter.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            room = bucket_mb * MB
        buckets[-1].append(parameter)
        room -= parameter.numel() * parameter.element_size()
    return buckets


class Bucket:
    """Parameters whose gradients travel together, side by side in one buffer, which other ranks read if they can."""

    def __init__(self, parameters: list[nn.Parameter], group: Group, dtype: torch.dtype | None = None):
        self.parameters, self.group, self.dtype = parameters, group, dtype  # None: the parameters' own
        self.make_room()
        self.missing = len(parameters)  # gradients not yet made in this backward
        self.handle: Handle | None = None

    def make_room(self) -> None:
        like, sizes = self.parameters[0], [p.numel() for p in self.parameters]
        dtype = self.dtype or like.dtype
        if like.device == self.group.device:
            self.flat = self.group.shared_empty([sum(sizes)], dtype)
        else:  # a model that has yet to be moved
            self.flat = torch.empty(sum(sizes), dtype=dtype, device=like.device)
        self.views = [piece.view_as(p) for p, piece in zip(self.parameters, self.flat.split(sizes), strict=True)]

    def start(self, group: Group, op: str) -> None:
        """Copy the gradients in and begin to average them, or add them up."""
        if self.flat.dtype != (self.dtype or self.parameters[0].dtype):  # the model was converted since
            self.make_room()
        made = []
        for p, view in zip(self.parameters, self.views, strict=True):
            if p.grad is None:
                view.zero_()
            elif p.grad is not view:
                made.append((view, p.grad))
        copy_all(made)
        self.handle = group.all_reduce_(self.flat, op, async_op=True)

    def finish(self, as_view: bool) -> None:
        """Wait, and give the parameters their averaged gradients."""
        assert self.handle is not None
        self.handle.wait()
        self.handle, self.missing = None, len(self.parameters)
        if as_view:
            for p, view in zip(self.parameters, self.views, strict=True):
                p.grad = view.to(p.dtype)
            return
        pairs = []
        for p, view in zip(self.parameters, self.views, strict=True):
            p.grad = torch.empty_like(p) if p.grad is None else p.grad
            pairs.append((p.grad, view))
        copy_all(pairs)


def copy_all(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy many (to, from) in one call: a model has hundreds of parameters, most of them short."""
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [source for _, source in pairs])
