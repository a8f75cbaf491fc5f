"""The two ends of the model, split by vocabulary: a table of V/p rows a rank, and a loss from V/p logits a rank.

    table = [rows 0 .. V/p-1]       rank 0       embedding: a rank gives 0 for tokens it does not hold; all_reduce
            [rows V/p .. 2V/p-1]    rank 1       logits:    x table_rᵀ, this rank's columns
            ...                                  loss:      log Σ_r Σ_v exp(logit_v) - logit_target

The logits, V/p numbers a token, are never gathered: the loss needs the largest over all ranks, the sum of exponentials
and the target's own logit, 3 numbers a token. A V that p does not divide is padded with rows of zeros, which no token
reads, no softmax counts and no gradient moves. Shoeybi et al. 2019, "Megatron-LM", section 3. Seams: `embedding.token`,
`cross_entropy`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llmlab.arguments import whole
from llmlab.comm.autograd import gather_from, reduce_from
from llmlab.comm.group import Group
from llmlab.model import IGNORE, Transformer
from llmlab.model.embedding import Table
from llmlab.model.loss import as_targets, mean_of, outside_vocabulary
from llmlab.parallel.placement import Shard, shard


def split_table(table: Table, group: Group) -> None:
    """Keep this rank's rows of an embedding table."""
    rows = Shard(group, 0, table.weight.shape[0])
    shard(table.weight, group, 0)
    table.forward = partial(look_up, table, rows)  # type: ignore[method-assign]


def look_up(table: Table, rows: Shard, index: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
    """Give the rows that `index` asks for: each is held by one rank, the others add zeros."""
    local, elsewhere = locate(index, rows)
    try:
        found = F.embedding(local, table.weight)
    except IndexError:
        raise out_of_range(table.what, index, rows.size) from None
    return reduce_from(found.masked_fill(elsewhere[..., None], 0.0), rows.group)  # summands [*B, D], one of them not 0


def locate(index: Int[Tensor, "*B"], rows: Shard) -> tuple[Int[Tensor, "*B"], Bool[Tensor, "*B"]]:
    """Turn numbers of the whole vocabulary into this rank's (0 where another rank's), and say which are elsewhere.

    A number that nobody has becomes -1, so that looking it up fails, on every rank alike and without asking first.
    """
    start = rows.group.rank * rows.part
    elsewhere = (index < start) | (index >= start + rows.part)
    nobody = (index < 0) | (index >= rows.size)
    # row 0 stands in for another rank's, so that every rank looks up as many; the caller masks what it finds there
    return (index - start).masked_fill(elsewhere, 0).masked_fill(nobody, -1), elsewhere


def held(rows: Shard) -> int:
    """Count this rank's rows, without the padding."""
    return max(0, min(rows.part, rows.size - rows.group.rank * rows.part))


def out_of_range(what: str, index: Tensor, size: int) -> ValueError:
    low, high = int(index.min()), int(index.max())
    return ValueError(f"{what} wants numbers from 0 to {size - 1}, got {low} to {high}")


def whole_logits(logits: Float[Tensor, "*B v"], vocab_size: int, group: Group) -> Float[Tensor, "*B V"]:
    """Shard(-1) -> Replicate, without the padding: for whoever wants to sample from them."""
    whole("whole_logits", "vocab_size", vocab_size, least=1)
    return gather_from(logits, group)[..., :vocab_size]  # [*B, v p], the last rank's padding at the end


# --- the loss ---------------------------------------------------------------------------------------------------------


def split_targets(model: Transformer, group: Group) -> None:
    """Swap the model's loss for the one that reads split logits."""
    rows = Shard(group, 0, model.config.vocab_size)
    model.cross_entropy = partial(vocabulary_cross_entropy, rows=rows, label_smoothing=model.config.label_smoothing)


def vocabulary_cross_entropy(
    logits: Float[Tensor, "*B v"],
    targets: Integer[Tensor, "*B"],
    rows: Shard,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Float[Tensor, "*C"]:
    """Compute -log softmax(logits)[target] in nats from each rank's v = V/p logits: as `model.loss.cross_entropy`.

    Shard(-1) -> Replicate. The mean is over targets that are not IGNORE; 16-bit logits are taken to fp32 first.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = as_targets(targets, logits)
    ignored = targets == IGNORE
    loss = _TokenLoss.apply(logits, targets.masked_fill(ignored, 0), rows, label_smoothing)
    loss = loss.masked_fill(ignored, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else mean_of(loss.sum(), (~ignored).sum())


class _TokenLoss(Function):
    """log Σ exp(z) - (1 - e) z_target - e/V Σ z of each token, e the label smoothing; keeps only the softmax."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rows: Shard, e: float) -> Tensor:
        z = logits[..., : held(rows)]  # [*B, v], less the padding, whose logits are no one's; maybe none are left
        local, elsewhere = locate(targets, rows)
        top = rows.group.all_reduce(z.amax(-1) if held(rows) else z.new_full(targets.shape, -torch.inf), "max")  # [*B]
        p = (z - top[..., None]).exp_()  # [*B, v], not yet divided by the sum over all ranks
        parts = [p.sum(-1), (pick(logits, local, targets, rows) - top).masked_fill(elsewhere, 0.0)]
        if e:
            parts.append(z.sum(-1))
        total, target, *rest = rows.group.all_reduce(torch.stack(parts))  # [2 or 3, *B] in one message
        p.div_(total[..., None])
        ctx.save_for_backward(p, local, elsewhere)
        ctx.rows, ctx.e = rows, e
        loss = total.log() - (1 - e) * target
        return loss + e * (top - rest[0] / rows.size) if rest else loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        p, local, elsewhere = ctx.saved_tensors
        grads = p.new_empty(*p.shape[:-1], ctx.rows.part)  # [*B, v] as logits came, with the padding p has not
        own, padding = grads.split([p.shape[-1], ctx.rows.part - p.shape[-1]], dim=-1)
        torch.mul(p, grad[..., None], out=own)
        padding.zero_()
        if ctx.e:
            own.sub_(grad[..., None] * (ctx.e / ctx.rows.size))
        here = (grad * (ctx.e - 1)).masked_fill(elsewhere, 0.0)  # what the target's own column gets beside p
        return grads.scatter_add_(-1, local[..., None], here[..., None]), None, None, None


def pick(
    logits: Float[Tensor, "*B v"], local: Int[Tensor, "*B"], targets: Int[Tensor, "*B"], rows: Shard
) -> Float[Tensor, "*B"]:
    """Take each token's logit of its `local` target."""
    # nll_loss is a checked gather along the last dimension, [N, v] and [N] -> [N], as it refuses a target of -1
    try:
        return -F.nll_loss(logits.flatten(0, -2), local.flatten(), reduction="none").view_as(targets)
    except IndexError:
        raise outside_vocabulary(targets, rows.size) from None
