"""Which sequences of the whole batch a rank has: what dropout must know to drop as one process does. Nothing is sent.

    data_parallel, ZeRO, local_sgd, expert_parallel     rank r has part r of the rows: the whole batch is the ranks'
                                                        batches one after another, all of one size
    context_parallel, tensor_parallel, a pipeline       all of its ranks have the same rows

Whoever makes ranks exchange gradients, weights or tokens says here over which of them, and no loop has to. Of several
groups the largest counts: experts may be averaged over fewer ranks than the rest. Where ranks have unequal batches,
the loop says where this one's begins: `model.place.row = sum(sizes[:rank])`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from llmlab.comm.group import Group
from llmlab.model.dropout import Place, place_of, places
from llmlab.parallel.context import Columns


def deal_rows(model: nn.Module, group: Group) -> None:
    """Note that every rank of the group has rows of its own, but for those that hold parts of the same sequences."""
    _deal(places(model), group)


def deal_rows_by(parameters: Iterable[Tensor], group: Group) -> None:
    """The same where only a model's parameters are at hand: they know the place of their model's dropouts."""
    _deal([place for p in parameters if (place := place_of(p)) is not None], group)


def _deal(found: Iterable[Place], group: Group) -> None:
    for place in found:
        together = place.columns.group.members if isinstance(place.columns, Columns) else ()
        part, parts = part_of(group, together)
        if parts > place.parts:
            place.part, place.parts = part, parts


def part_of(group: Group, together: tuple[int, ...]) -> tuple[int, int]:
    """Give (which, of how many) parts of the rows this rank has, if the ranks `together` with it have the same."""
    if not set(together) <= set(group.members) or not together:
        return group.rank, group.size
    offsets = [rank - together[0] for rank in together]
    left, part = list(group.members), 0
    while left[0] not in together:  # ranks of a mesh: another part's are as far from one another as these
        left = [rank for rank in left if rank - left[0] not in offsets]
        part += 1
    return part, group.size // len(together)
