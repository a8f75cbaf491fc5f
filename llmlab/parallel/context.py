"""Context parallelism: every rank holds the whole model and a part of every sequence; only attention talks.

    tokens, norms, MLPs, loss     [B, T/c]   each token by itself: nothing to send
    attention                     q [B, h, T/c, K] wants k, v [B, g, T, K]: they come round ("ring", ring.py), or
                                  heads are traded for tokens ("ulysses", ulysses.py)

Causality, rotary positions, masks and dropout go by a token's number in the whole sequence, so whoever cuts the batch
says which tokens a rank holds: `columns`. Weights are replicated and their gradients partial, as with data parallelism.
Seam: `attend`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

from torch import Tensor

from llmlab.arguments import instance, whole
from llmlab.comm.group import Group
from llmlab.model.transformer import Block, Transformer
from llmlab.parallel.ring import attend_ring, order_of
from llmlab.parallel.ulysses import attend_ulysses
from llmlab.parallel.whole import check_not_split, note_split

ORDER = {"ring": "zigzag", "contiguous": "contiguous", "striped": "striped", "ulysses": "contiguous"}


def columns(seq: int, group: Group, context: str = "ring") -> Tensor:
    """Give the numbers, in the whole sequence, of the tokens this rank holds: `tokens[:, columns(T, group)]`.

    context: "ring" (slices i and 2c-1-i of 2c, in zigzag), "contiguous" (a ring over plain parts), "striped" (a ring
    over every c-th token) or "ulysses". Raises ValueError for a length that does not split evenly.
    """
    check_context(context)
    whole("columns", "seq", seq, least=1)
    parts = slices(group, context)
    if seq % parts:
        raise ValueError(
            f'context="{context}" splits a sequence into {parts} slices over {group.axis}={group.size}, got {seq}'
        )
    return order_of(seq, group.rank, group.size, ORDER[context])


def slices(group: Group, context: str) -> int:
    """Count the slices of a sequence: one a rank, or two in zigzag."""
    return group.size * (2 if context == "ring" and group.size > 1 else 1)


@dataclass(frozen=True, eq=False)
class Columns:
    """The numbers, in the whole sequence, of the t tokens held here: what dropout draws by."""

    group: Group
    context: str

    def __call__(self, t: int) -> Tensor:
        return columns(t * self.group.size, self.group, self.context)


def context_parallel(model: Transformer, group: Group, context: str = "ring") -> Transformer:
    """Let every attention of the model's blocks look over the whole sequence, of which each rank holds `columns`.

    In place. Call the model with `positions=columns(...)`. The gradients of the weights are partial afterwards: reduce
    them over the group, as data_parallel does. Raises ValueError for an unknown `context`, a model whose sequences
    are split already, and for "ulysses" where the heads here do not split over the group.
    """
    instance("context_parallel", "model", model, Transformer)
    instance("context_parallel", "group", group, Group, "the worker's first argument")
    check_context(context)
    check_not_split("context_parallel", model, "cp")
    blocks = cast(Iterable[Block], model.blocks)
    if context == "ulysses":
        for block in blocks:
            check_heads(block, group)
    if group.size > 1:
        model.place.columns = Columns(group, context)
    for block in blocks if group.size > 1 else ():
        attention = block.attention
        if context == "ulysses":
            attention.attend = partial(attend_ulysses, group=group, attend=attention.attend)
        else:
            attention.attend = partial(attend_ring, group=group, order=ORDER[context])
    if group.size > 1:
        held = partial(columns, group=group, context=context)
        note_split(model, cp=group, columns=held, slices=slices(group, context))
    return model


def check_context(context: str) -> None:
    if context not in ORDER:
        raise ValueError(f"context wants one of {', '.join(ORDER)}; got {context!r}")


def check_heads(block: Block, group: Group) -> None:
    heads = block.attention.query.weight.shape[0] // block.attention.head_dim
    if heads % group.size:
        raise ValueError(f'context="ulysses" splits heads over {group.axis}={group.size}: it must divide, got {heads}')
