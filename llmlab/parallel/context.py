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
from functools import partial
from typing import cast

from torch import Tensor

from llmlab.comm.group import Group
from llmlab.model.transformer import Block, Transformer
from llmlab.parallel.ring import attend_ring, order_of
from llmlab.parallel.ulysses import attend_ulysses

ORDER = {"ring": "zigzag", "contiguous": "contiguous", "striped": "striped", "ulysses": "contiguous"}


def columns(seq: int, group: Group, how: str = "ring") -> Tensor:
    """Give the numbers, in the whole sequence, of the tokens this rank holds: `tokens[:, columns(T, group)]`.

    how: "ring" (slices i and 2c-1-i of 2c, in zigzag), "contiguous" (a ring over plain parts), "striped" (a ring over
    every c-th token) or "ulysses". Raises ValueError for a length that does not split evenly.
    """
    check_how(how)
    parts = group.size * (2 if how == "ring" and group.size > 1 else 1)
    if seq % parts:
        raise ValueError(f'how="{how}" splits a sequence into {parts} slices over {group.axis}={group.size}, got {seq}')
    return order_of(seq, group.rank, group.size, ORDER[how])


def context_parallel(model: Transformer, group: Group, how: str = "ring") -> Transformer:
    """Let every attention of the model's blocks look over the whole sequence, of which each rank holds `columns`.

    In place. Call the model with `positions=columns(...)`. The gradients of the weights are partial afterwards: reduce
    them over the group, as data_parallel does. Raises ValueError for an unknown `how`, and for "ulysses" where the
    heads here do not split over the group.
    """
    check_how(how)
    blocks = cast(Iterable[Block], model.blocks)
    if how == "ulysses":
        for block in blocks:
            check_heads(block, group)
    for block in blocks if group.size > 1 else ():
        attention = block.attention
        if how == "ulysses":
            attention.attend = partial(attend_ulysses, group=group, attend=attention.attend)
        else:
            attention.attend = partial(attend_ring, group=group, order=ORDER[how])
    return model


def check_how(how: str) -> None:
    if how not in ORDER:
        raise ValueError(f"how wants one of {', '.join(ORDER)}; got {how!r}")


def check_heads(block: Block, group: Group) -> None:
    heads = block.attention.query.weight.shape[0] // block.attention.head_dim
    if heads % group.size:
        raise ValueError(f'how="ulysses" splits heads over {group.axis}={group.size}: it must divide, got {heads}')
