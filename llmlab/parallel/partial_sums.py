"""Partial -> Replicate, for gradients of which each rank has one summand; nobody has to remember to ask for it.

    tensor_parallel alone          as each backward ends: gradients are whole once `loss.backward()` returns
    under data_parallel or ZeRO    when these complete a gradient: once a step, however many microbatches it has

Under sequence parallelism a norm has met only this rank's tokens, and a key head that several ranks hold only this
rank's queries: placement.py notes it on the parameter, with the group to add up over. Seam: parameter gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.utils.hooks import RemovableHandle

from llmlab.comm.group import Group
from llmlab.parallel.part_gradients import held_grad, hold_grad
from llmlab.parallel.placement import partial_over


@torch.no_grad()
def sum_partial(parameters: Iterable[Tensor]) -> None:
    """Partial -> Replicate, for the gradients marked so: one all_reduce for all that share a group and a dtype.

    A missing gradient counts as zero, so every rank sends the same. What is summed already must not come here again.
    """
    together: dict[tuple[Group, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        group = partial_over(parameter)
        if group is not None and group.size > 1 and parameter.requires_grad:
            together.setdefault((group, parameter.dtype), []).append(parameter)
    for (group, _), members in together.items():
        for parameter in members:
            if held_grad(parameter) is None:
                hold_grad(parameter, torch.zeros_like(parameter))
        grads = [grad for parameter in members if (grad := held_grad(parameter)) is not None]
        summed = group.all_reduce(torch.cat([grad.flatten() for grad in grads]))  # [n], all side by side
        pieces = summed.split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [piece.view_as(grad) for piece, grad in zip(pieces, grads, strict=True)])


def sum_after_backward(parameters: Iterable[Tensor]) -> None:
    """Let the gradients marked partial be whole when a backward returns, until `leave_partial`."""
    marked = [p for p in parameters if (group := partial_over(p)) is not None and group.size > 1]
    if marked:
        SummedAfterBackward(marked)


def leave_partial(parameters: Iterable[Tensor]) -> None:
    """Let these gradients stay partial when a backward returns: who calls this calls `sum_partial`, once per step."""
    for parameter in parameters:
        summed = vars(parameter).pop("summed_by", None)
        if summed is not None:
            summed.let_go(parameter)


class SummedAfterBackward:
    """Adds up what a backward made, and only that: what earlier ones made is summed already."""

    def __init__(self, parameters: list[Tensor]):
        self.hooks: dict[Tensor, tuple[RemovableHandle, RemovableHandle]] = {}
        self.before: dict[Tensor, Tensor] = {}  # gradients from before this backward
        self.made: dict[Tensor, Tensor] = {}  # and what it has made of each
        self.backward = -1  # torch's number of the one under way; one that failed never says that it ended
        for parameter in parameters:
            self.watch(parameter)
            vars(parameter)["summed_by"] = self

    def watch(self, parameter: Tensor) -> None:
        """Put the hooks on a parameter: before autograd adds to its gradient, and after."""

        def set_aside(grad: Tensor) -> None:
            self.begin()
            if (before := held_grad(parameter)) is not None:
                self.before[parameter] = before
                hold_grad(parameter, None)

        @torch.no_grad()
        def sum_over_ranks(parameter: Tensor) -> None:
            made = held_grad(parameter)
            assert made is not None
            self.made[parameter] = made
            if parameter in self.before:  # show what torch would, until the sum is there
                hold_grad(parameter, self.before[parameter] + made)

        trained = parameter.requires_grad
        parameter.requires_grad_(True)  # torch hooks trained ones only, and a frozen one may be trained later
        self.hooks[parameter] = (
            parameter.register_hook(set_aside),
            parameter.register_post_accumulate_grad_hook(sum_over_ranks),
        )
        parameter.requires_grad_(trained)

    def let_go(self, parameter: Tensor) -> None:
        for hook in self.hooks.pop(parameter):
            hook.remove()

    def begin(self) -> None:
        """The first gradient of a backward says that its end be told."""
        now = torch._C._current_graph_task_id()
        if now != self.backward:
            self.backward = now
            self.before.clear()
            self.made.clear()
            Variable._execution_engine.queue_callback(self.end)

    @torch.no_grad()
    def end(self) -> None:
        """Sum what was made, the same parameters on every rank, and put what had come together before back to it."""
        if self.made:  # torch.autograd.grad gives gradients away, and makes none here
            for parameter in self.hooks:
                if parameter not in self.made and (grad := held_grad(parameter)) is not None:
                    self.before[parameter] = grad
                hold_grad(parameter, self.made.get(parameter))
            sum_partial(self.hooks)
        for parameter, before in self.before.items():
            grad = held_grad(parameter)
            hold_grad(parameter, before if grad is None else before.add_(grad))
        self.before.clear()
        self.made.clear()
        self.backward = -1
