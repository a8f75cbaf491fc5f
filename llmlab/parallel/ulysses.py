"""Ulysses: trade the split along the sequence for one along the heads, attend as ever, and trade back.

    Shard(sequence)   rank 0: tokens 0 1, heads a b      all_to_all      rank 0: tokens 0 1 2 3, head a
                      rank 1: tokens 2 3, heads a b     <---------->     rank 1: tokens 0 1 2 3, head b   Shard(heads)

Jacobs et al. 2023, "DeepSpeed Ulysses", section 3. Any attention works between the two, since each rank sees the whole
sequence; but there cannot be more ranks than heads, and fewer key heads than ranks are repeated. Seam: `attend`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lcm

import torch
from torch import Tensor

from llmlab.comm.autograd import all_to_all
from llmlab.comm.group import Group
from llmlab.model.attention import repeat_heads
from llmlab.parallel.ring import check_whole

HEADS, TOKENS = 1, 2  # dimensions of q, k and v


def attend_ulysses(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    *,
    group: Group,
    attend: Callable[..., Tensor],
) -> Tensor:
    """Attend to the whole sequence, of which this rank holds the group.rank-th part. [B, h, t, K] -> same.

    k, v: [B, g, t, K].  mask: [B|1, 1, t|1, T].  attend: what computes the attention of a share of the heads.
    Raises ValueError, before anything is sent, for keys of another length than the queries, heads that do not split,
    a mask of another shape.
    """
    check_whole(q, k, mask, group)
    if mask is not None and mask.shape[HEADS] != 1:
        raise ValueError(f"ulysses wants one mask for all heads, got {mask.shape[HEADS]}")
    n_key_head = lcm(k.shape[HEADS], group.size)  # the fewest that give every rank the key heads of its query heads
    k, v = (repeat_heads(x, n_key_head) for x in (k, v))
    q, k, v = (all_to_all(x, group, split_dim=HEADS, cat_dim=TOKENS) for x in (q, k, v))
    mask = None if mask is None else all_rows(mask, group)
    return all_to_all(attend(q, k, v, mask, causal), group, split_dim=TOKENS, cat_dim=HEADS)


def all_rows(mask: Tensor, group: Group) -> Tensor:
    """Collect the rows of a mask, [B|1, 1, t, T] -> [B|1, 1, T, T]: each rank has those of its own tokens."""
    if mask.shape[TOKENS] == 1:  # the same for every token
        return mask
    rows = mask.to(torch.uint8).movedim(TOKENS, 0).contiguous()
    return group.all_gather(rows).movedim(0, TOKENS).bool()
