"""Backward in two halves: B makes the gradients of a product's input, W later that of its matrix.

    y = x Wᵀ + b        B:  dx = dy W,  db = Σ dy        W:  dW = dyᵀ x

The stage before waits for dx only, so W can be put off to a time when there is nothing else to do. Qi et al. 2023,
"Zero bubble pipeline parallelism", section 2.1. Seam: `Linear.multiply`. Norms and biases are cheap: B makes theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from llmlab.model.layers import Linear
from llmlab.model.lora import adapters

Product = tuple[GradientEdge, Tensor, Tensor]  # where the matrix's gradient goes, dy [*, O], x [*, I]


class DeferredWeights:
    """What the linear layers of a model owe their matrices. Give it to each as `multiply`."""

    def __init__(self) -> None:
        self.owed: list[Product] = []

    def __repr__(self) -> str:
        return "multiply: the matrix's gradient is deferred"  # what `describe` shows

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute x Wᵀ + b; its backward leaves the matrix's gradient owed."""
        x, weight, bias = _cast(x), _cast(weight), None if bias is None else _cast(bias)
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return F.linear(x, weight, bias)
        return _Multiply.apply(x, bias, _Hidden(weight), self)

    def collect(self) -> list[Product]:
        """Give what the backward just done left owed, and forget it."""
        owed, self.owed = self.owed, []
        return owed


def _cast(x: Tensor) -> Tensor:
    """Do what autocast does to an operand of F.linear: the gradients made by hand have to fit."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


class _Hidden:
    """A matrix that autograd does not see as an input, so that B does not walk the graph behind it: W will."""

    def __init__(self, weight: Tensor):
        self.weight, self.edge = weight, get_gradient_edge(weight)


class _Multiply(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, hidden: _Hidden, deferred: DeferredWeights) -> Tensor:
        ctx.save_for_backward(x, hidden.weight)
        ctx.edge, ctx.deferred, ctx.has_bias = hidden.edge, deferred, bias is not None
        return F.linear(x, hidden.weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        # detached: x as saved knows its graph, and that the message it came of and its gradient, already sent on
        ctx.deferred.owed.append((ctx.edge, dy, x.detach()))
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        db = dy.flatten(0, -2).sum(0) if ctx.has_bias and ctx.needs_input_grad[1] else None
        return dx, db, None, None


def pay(owed: Iterable[Product]) -> None:
    """W: make the matrices' gradients and hand each to its parameter, through whatever lies between the two.

    What shares a node of the graph goes together, as a node can be gone through once; the rest one by one, so that no
    two matrices' worth of gradients wait at a time.
    """
    together: dict[Node, list[Product]] = {}
    for product in owed:
        together.setdefault(product[0].node, []).append(product)
    for products in together.values():
        gradients = [dy.flatten(0, -2).mT @ x.flatten(0, -2) for _, dy, x in products]
        torch.autograd.backward([edge for edge, _, _ in products], gradients)


def defer_weights(model: nn.Module) -> DeferredWeights:
    """Let every linear layer of the model owe its matrix's gradient, in place."""
    if any(adapters(model)):
        raise ValueError(
            "a zero-bubble pipeline wants a model without adapters, whose frozen matrices owe no gradient to put off; "
            "got one with some: schedule='1f1b' trains them"
        )
    deferred = DeferredWeights()
    for module in model.modules():
        if isinstance(module, Linear):
            module.multiply = deferred
    return deferred
