"""Ranks that talk rarely: each takes many steps on data of its own, then the weights are averaged.

    rank 0: step step step step --.             .-- step step step step --.
    rank 1: step step step step --+-- average --+-- step step step step --+-- average
    rank 2: step step step step --'             '-- step step step step --'

    local SGD   w <- mean of w_r                                               Stich 2019, "Local SGD converges fast"
    FedAvg      w <- mean of w_r, weighted by examples                         McMahan et al. 2017, algorithm 1
    DiLoCo      w <- outer optimizer at w, its gradient the mean of w - w_r    Douillard et al. 2023, algorithm 1

With p ranks and an average every H steps a rank hands over 1/H of what data parallelism does. For H = 1 and plain SGD
local SGD *is* data parallelism: the mean of w - lr g_r is w minus lr times the mean of g_r. Seam: `optimizer.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llmlab.arguments import function, instance, instances, real, whole
from llmlab.comm.group import Group
from llmlab.optim import SGD, make_over
from llmlab.parallel.rows import deal_rows_by

AnyTensor = TypeVar("AnyTensor", bound=Tensor)
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def local_sgd(
    optimizer: torch.optim.Optimizer, group: Group, every: int = 8, n_examples: float | None = None
) -> torch.optim.Optimizer:
    """Average the weights over the group after each `every`-th step; all begin with rank 0's. Edits the optimizer.

    What an optimizer remembers (momentum, Adam's moments) stays each rank's own.  n_examples: how many examples this
    rank trains on; with it ranks weigh by their examples, which makes it FedAvg. Then `every` may differ between ranks
    that go through unequal data the same number of times: what must agree is how often they average.
    """
    whole("local_sgd", "every (steps between two averages)", every, least=1)
    _check_examples(n_examples)
    parameters = begin_alike("local_sgd", optimizer, group)

    def average() -> None:
        average_weights(parameters, group, n_examples)

    return _after_every(every, optimizer, average)


def diloco(
    optimizer: torch.optim.Optimizer, group: Group, every: int = 500, make_outer: MakeOptimizer | None = None
) -> torch.optim.Optimizer:
    """Let the given optimizer be the inner one; after each `every`-th step an outer one moves the common weights.

    make_outer: None for the paper's, SGD with Nesterov momentum (nesterov_outer). Every rank keeps the common weights
    and the outer optimizer's state, alike everywhere; the inner optimizer's state is each rank's own.
    """
    whole("diloco", "every (steps between two averages)", every, least=1)
    if make_outer is not None:
        function("diloco", "make_outer", make_outer, "parameters")
    parameters = begin_alike("diloco", optimizer, group)
    common = [nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device=p.device)) for p in parameters]
    _copy(common, parameters)
    outer = make_over("diloco", make_outer or nesterov_outer, common)

    @torch.no_grad()
    def outer_step() -> None:
        for shared, own in zip(common, parameters, strict=True):
            shared.grad = shared - own  # how far this rank has come, as a gradient: downhill is minus
        average_([shared.grad for shared in common if shared.grad is not None], group)
        outer.step()
        outer.zero_grad()
        _copy(parameters, common)

    return _after_every(every, optimizer, outer_step)


def nesterov_outer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make DiLoCo's outer optimizer, with the learning rate and the momentum its paper settled on."""
    return SGD(parameters, lr=0.7, momentum=0.9, nesterov=True)


def average_weights(parameters: Iterable[nn.Parameter], group: Group, n_examples: float | None = None) -> None:
    """Replace the weights, on every rank, by their mean over the group: one round of FedAvg by hand.

    n_examples: weigh this rank's by so many; 0 for a rank that sits this round out. None, on all ranks: all alike.
    """
    instance("average_weights", "group", group, Group, "the worker's first argument")
    weights = instances("average_weights", "parameters", parameters, nn.Parameter, "model.parameters()")
    average_([p.data for p in weights], group, n_examples)


@torch.no_grad()
def average_(tensors: list[Tensor], group: Group, weight: float | None = None) -> None:
    """Partial -> Replicate: the tensors' (weighted) mean over the group, written into them; one message per dtype."""
    _check_examples(weight)
    share = None if weight is None else _share(weight, group)
    for same_dtype in by_dtype(tensors):
        flat = torch.cat([x.flatten() for x in same_dtype])
        if share is None:
            group.all_reduce_(flat, "avg")
        else:
            group.all_reduce_(flat.mul_(share))
        for x, piece in zip(same_dtype, flat.split([x.numel() for x in same_dtype]), strict=True):
            x.copy_(piece.view_as(x))


def by_dtype(tensors: Iterable[AnyTensor]) -> list[list[AnyTensor]]:
    """Group tensors by dtype, in their order: those of a dtype can travel as one message, which costs one latency."""
    groups: dict[torch.dtype, list[AnyTensor]] = {}
    for x in tensors:
        groups.setdefault(x.dtype, []).append(x)
    return list(groups.values())


def _share(weight: float, group: Group) -> Tensor:
    """This rank's weight by the sum of all; 0-dimensional. One number from each rank."""
    mine = torch.tensor(float(weight), dtype=torch.float64, device=group.device)
    total = group.all_reduce(mine)
    if not total.is_meta and total == 0:
        raise ValueError("a mean by examples wants a rank with examples, got 0 on every rank")
    return mine / total


@torch.no_grad()
def begin_alike(call: str, optimizer: torch.optim.Optimizer, group: Group) -> list[nn.Parameter]:
    """One -> Replicate: the optimizer's parameters as rank 0 has them; and give them."""
    instance(call, "optimizer", optimizer, torch.optim.Optimizer, "lab.optim.SGD(model.parameters())")
    instance(call, "group", group, Group, "the worker's first argument")
    if (mode := vars(optimizer).get("mode")) is not None:
        raise ValueError(f"{call} wants an optimizer that no mode steps yet, got one that {mode} does")
    vars(optimizer)["mode"] = call
    parameters = [p for param_group in optimizer.param_groups for p in param_group["params"]]
    deal_rows_by(parameters, group)
    for parameter in parameters:
        group.broadcast_(parameter, 0)
    return parameters


@torch.no_grad()
def _copy(to: list[nn.Parameter], source: list[nn.Parameter]) -> None:
    for x, value in zip(to, source, strict=True):
        x.copy_(value)


def _after_every(every: int, optimizer: torch.optim.Optimizer, meet: Callable[[], None]) -> torch.optim.Optimizer:
    """Put `meet` behind each `every`-th step of the optimizer."""
    inner, taken = optimizer.step, 0

    def step_and_meet(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        loss = inner(*args, **kwargs)
        taken += 1
        if taken % every == 0:
            meet()
        return loss

    optimizer.step = step_and_meet  # type: ignore[method-assign]
    return optimizer


def _check_examples(n_examples: float | None) -> None:
    if n_examples is not None:
        real("a mean by examples", "n_examples", n_examples, least=0)
