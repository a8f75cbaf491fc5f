"""Expert parallelism: each rank holds some of the experts, and tokens travel to theirs and back. Seam: `dispatch`.

    rank 0: its tokens, sorted by expert --.             .-- experts 0 .. E/p-1 --.             .--> its outputs
                                           +- all_to_all +                        +- all_to_all +
    rank 1: its tokens, sorted by expert --'             '-- experts E/p .. ------'             '--> its outputs

Lepikhin et al. 2021, "GShard", section 3: the router and all else is on every rank, as in data parallelism, and each
rank brings its own tokens. Capacity is counted per rank that tokens come from, as there, so that nothing must be known
of the others before tokens leave. The gradient of an expert is made where the expert is, from the tokens of all ranks:
it is a sum over ranks already, and complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import Function

from llmlab.arguments import instance
from llmlab.comm.group import Group
from llmlab.model.moe import MoE, dispatch, even_share
from llmlab.parallel.part_gradients import slice_over
from llmlab.parallel.placement import check_not_laid_out
from llmlab.parallel.rows import deal_rows

Model = TypeVar("Model", bound=nn.Module)


def expert_parallel(model: Model, group: Group) -> Model:
    """Keep experts [r E/p, (r+1) E/p) of every mixture on rank r of p; send tokens to where theirs are. In place.

    The experts of other ranks become an `Elsewhere`, so those that stay keep their names. Router, shared experts and
    all outside the mixtures stay whole on every rank. Raises ValueError if there is no mixture, or its experts do not
    divide by the group's size.
    """
    instance("expert_parallel", "model", model, nn.Module)
    instance("expert_parallel", "group", group, Group, "the worker's first argument")
    check_not_laid_out("expert_parallel", model)
    for moe in mixtures(model):
        n_expert = len(moe.experts)
        if n_expert % group.size:
            raise ValueError(f"{n_expert} experts do not split over {group.axis}={group.size}: it must divide")
        if any(isinstance(expert, Elsewhere) for expert in moe.experts):
            raise ValueError("expert_parallel wants a model whose experts are all here, got one it has split already")
    deal_rows(model, group)
    for moe in mixtures(model):
        share = len(moe.experts) // group.size
        for e in range(len(moe.experts)):
            if e // share != group.rank:
                moe.experts[e] = Elsewhere(e // share)
        moe.dispatch = partial(dispatch_across, group=group)
        for parameter in moe.experts.parameters():
            slice_over(parameter, group)
    return model


def global_balance(model: Model, group: Group) -> Model:
    """Judge the balance of every mixture over the tokens of all ranks of the group, equally many on each. In place.

    The mean of the ranks' own losses is another function: a rank's experts may be unevenly used while all ranks'
    together are not (Qiu et al. 2025, "Demons in the detail"). Raises ValueError if there is no mixture.
    """
    instance("global_balance", "model", model, nn.Module)
    instance("global_balance", "group", group, Group, "the worker's first argument")
    deal_rows(model, group)
    for moe in mixtures(model):
        moe.average = partial(average_over, group=group)
    return model


def mixtures(model: nn.Module) -> list[MoE]:
    """Find the model's mixtures of experts; ValueError if it has none."""
    found = [module for module in model.modules() if isinstance(module, MoE)]
    if not found:
        raise ValueError(
            f"expert parallelism wants a model with experts (Config's n_expert), got {type(model).__name__}"
        )
    return found


def expert_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Give the parameters of the routed experts held here. Their gradients are complete; all others' are a summand."""
    return [parameter for moe in mixtures(model) for parameter in moe.experts.parameters()]


class Elsewhere(nn.Module):
    """The place of an expert that rank `rank` of the group holds. It has no parameters, and nothing may call it."""

    def __init__(self, rank: int):
        super().__init__()
        self.rank = rank

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


def dispatch_across(
    tokens: Float[Tensor, "N D"],
    choice: Int[Tensor, "N k"],
    weights: Float[Tensor, "N k"],
    experts: Sequence[nn.Module],
    capacity_factor: float | None = None,
    *,
    group: Group,
) -> Float[Tensor, "N D"]:
    """Do as the model's own `dispatch` does, with the experts spread over the group."""
    return dispatch(tokens, choice, weights, experts, capacity_factor, partial(run_across, group=group))


def run_across(
    experts: Sequence[nn.Module], tokens: Float[Tensor, "M D"], sizes: list[int], group: Group
) -> Float[Tensor, "M D"]:
    """Send each expert its tokens, wherever it is; run those held here on what all ranks sent; send that back."""
    share = len(experts) // group.size
    here = experts[group.rank * share :][:share]
    leaving = [sizes[i : i + share] for i in range(0, len(sizes), share)]  # [to rank][its expert]
    counts = exchange_sizes(leaving, group)  # [from rank, expert here]
    arrived = exchange(tokens.split([sum(n) for n in leaving]), group)
    arriving = counts.tolist() if not counts.is_meta else [even_share(len(part), share) for part in arrived]
    parts = [part.split(n) for part, n in zip(arrived, arriving, strict=True)]
    outputs = [expert(torch.cat(own)) for expert, own in zip(here, zip(*parts, strict=True), strict=True)]
    split = [out.split(n) for out, n in zip(outputs, zip(*arriving, strict=True), strict=True)]
    return torch.cat(exchange([torch.cat(own) for own in zip(*split, strict=True)], group))


def exchange_sizes(sizes: list[list[int]], group: Group) -> Int[Tensor, "p e"]:
    """Tell every rank how many tokens each of its experts will get from this one; hear the same of its own."""
    return torch.stack(group.all_to_all([torch.tensor(n, device=group.device) for n in sizes]))


def exchange(parts: Sequence[Tensor], group: Group) -> tuple[Tensor, ...]:
    """Hand parts[j] to rank j, get what each rank had for this one. Backward: the same, the other way."""
    return _Exchange.apply(group, *parts)


class _Exchange(Function):
    @staticmethod
    def forward(ctx: Any, group: Group, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(group.all_to_all([part.contiguous() for part in parts]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *exchange(grads, ctx.group)


def average_over(x: Tensor, group: Group) -> Tensor:
    """Average over ranks. Backward: the same, exact even where ranks weigh what follows differently."""
    return _AverageOver.apply(x, group)


class _AverageOver(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.all_reduce(x.contiguous(), "avg")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return average_over(grad, ctx.group), None
