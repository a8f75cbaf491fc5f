"""Sequence parallelism: between tensor parallelism's regions, each rank keeps its T/p tokens of every sequence.

    embedding -> [B, T, D] -> scatter -> [B, T/p, D] -> norm -> enter ( attention ) leave -> dropout, sum -> norm -> ...

What lies there works on tokens one by one (norms, dropout, the residual sum), so without it every rank computes, and
keeps for backward, the same [B, T, D]. The collectives do not grow: a ring's all_reduce is a reduce_scatter followed by
an all_gather, and here each goes where it is needed. But a norm's gain now meets only this rank's tokens, so its
gradient is one summand of the whole's.

Korthikanti et al. 2022, "Reducing activation recomputation in large Transformer models", section 4.2.2. The embedding
is scattered after positions are added and dropout has been through, as in Megatron. Seam: module boundaries.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from llmlab.comm.autograd import gather_from, scatter_to
from llmlab.comm.group import Group
from llmlab.model import Block, Dropout, MoE, Transformer
from llmlab.parallel.placement import mark_partial


def split_tokens(model: Transformer, group: Group) -> None:
    """Keep T/p tokens a rank between the regions: scatter the embedding, note whose gradients become partial."""
    if model.embedding is not None:
        scatter_after(model.embedding, group)
    for block in model.blocks:
        assert isinstance(block, Block)
        for dropout in (block.attention_dropout, block.mlp_dropout):
            set_part(dropout, group)
        for norm in (block.attention_norm, block.mlp_norm):
            mark_partial(norm.parameters(), group)
    if model.norm is not None:
        mark_partial(model.norm.parameters(), group)


def set_part(dropout: Dropout, group: Group) -> None:
    """Tell dropout which of the tokens come through, so that it drops the elements that one process drops."""
    dropout.part = (group.rank, group.size)


def gather_tokens(moe: MoE, group: Group) -> None:
    """Route all tokens on every rank alike: Shard(1) -> Replicate before the mixture, and back after it."""

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return gather_from(args[0], group, 1), *args[1:]

    moe.register_forward_pre_hook(enter)
    scatter_after(moe, group)


def scatter_after(module: nn.Module, group: Group) -> None:
    """Replicate -> Shard(1): of the module's output keep this rank's tokens."""

    def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return scatter_to(output, group, 1)

    module.register_forward_hook(leave)
