"""Which parameters may travel together: those of one block, and those of what stands around the blocks.

A bucket never mixes blocks, so that a block can be gathered, freed and reduced by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from torch import nn

from llmlab.comm.group import Group
from llmlab.parallel.buckets import make_buckets

GroupOf = Group | Callable[[nn.Parameter], Group]
LISTS = (nn.ModuleList, nn.Sequential)


def stretches(model: nn.Module) -> Iterator[tuple[list[nn.Module], bool]]:
    """The modules a model calls, in order: (one block of a list, True), (neighbours that are in no list, False)."""
    around: list[nn.Module] = []
    for child in [model] if isinstance(model, LISTS) else model.children():
        if not isinstance(child, LISTS):
            around.append(child)
            continue
        if around:
            yield around, False
        around = []
        yield from (([block], True) for block in child)
    if around:
        yield around, False


def parameter_families(model: nn.Module) -> list[list[nn.Parameter]]:
    """Every parameter once, in families: each block's; those around the blocks; those of the model itself.

    What stands before and after the blocks is one family if it shares a parameter (a tied table), else two.
    """
    families: list[list[nn.Parameter]] = []
    home: dict[nn.Parameter, list[nn.Parameter]] = {}  # of those around the blocks
    seen: set[nn.Parameter] = set()
    for modules, block in stretches(model):
        parameters = [p for module in modules for p in module.parameters()]
        family = [] if block else next((home[p] for p in parameters if p in home), [])
        families += [] if any(family is other for other in families) else [family]
        for p in parameters:
            if p not in seen:
                family.append(p)
            if not block:
                home[p] = family
            seen.add(p)
    families.append([p for p in model.parameters() if p not in seen])
    return [family for family in families if family]


def divided(
    family: list[nn.Parameter], group_of: GroupOf, bucket_mb: float, apart: Collection[nn.Parameter] = ()
) -> Iterator[list[nn.Parameter]]:
    """Divide a family by group, by whether it is trained, by dtype and by size; those `apart` are each by itself."""
    kinds: dict[tuple[Group, bool, nn.Parameter | None], list[nn.Parameter]] = {}
    for p in family:
        alone = p if any(p is other for other in apart) else None
        kinds.setdefault((group_for(group_of, p), p.requires_grad, alone), []).append(p)
    for parameters in kinds.values():
        yield from make_buckets(parameters, bucket_mb)


def group_for(group_of: GroupOf, parameter: nn.Parameter) -> Group:
    return group_of if isinstance(group_of, Group) else group_of(parameter)
