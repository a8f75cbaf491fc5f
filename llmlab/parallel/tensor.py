"""Tensor parallelism: each rank holds a slice of every large matrix and computes its part of every token.

    y = f(x A) B      A = [A_0 | A_1]  by columns        B = [B_0]  by rows
                                                             [B_1]
    rank r:   x --enter--> f(x A_r) B_r --leave--> y         y = f(x A_0) B_0 + f(x A_1) B_1

f works on single features (GELU) or single heads (attention), so no rank needs another's columns of x A; what is left
to do is one sum when the region is left, and in backward one where it was entered.

                      enter                            leave                                x and y are
    tensor            identity   (back: all_reduce)    all_reduce      (back: identity)     the same on every rank
    sequence          all_gather (back: reduce_scatter)  reduce_scatter (back: all_gather)  a slice of the tokens

Shoeybi et al. 2019, "Megatron-LM", section 3; for the second row Korthikanti et al. 2022, "Reducing activation
recomputation", section 4.2. torch keeps a Linear's weight transposed, [out, in]: columns of A are its dimension 0.
Seam: module boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from llmlab.arguments import flag, instance
from llmlab.comm.autograd import all_gather_from, copy_to, reduce_from, reduce_scatter_to
from llmlab.comm.group import Group
from llmlab.model import MLP, Attention, Block, MoE, SwiGLU, Transformer
from llmlab.model.layers import Linear
from llmlab.model.lora import LowRank
from llmlab.parallel.layout import Layout
from llmlab.parallel.partial_sums import sum_after_backward
from llmlab.parallel.placement import check_not_laid_out, mark_partial, shard, shard_of
from llmlab.parallel.sequence import gather_tokens, split_tokens
from llmlab.parallel.vocabulary import split_table, split_targets
from llmlab.parallel.whole import note_split


def tensor_parallel(model: Transformer, group: Group, sequence_parallel: bool = False) -> Transformer:
    """Split the model over the group, in place: attention by heads, MLPs by features, tables by vocabulary.

    Every rank gives the whole model, with the same weights, and then the same batch. `model(tokens)` returns this
    rank's columns of the logits, [B, T, V/p] (see `vocabulary.whole_logits`); `model.loss` the loss of the whole, the
    same on every rank. With `sequence_parallel` the tokens between the regions are split too, [B, T/p, D]: p divides T.

    Gradients are whole when `loss.backward()` returns. It ends with one all_reduce of those that each rank has but a
    summand of (partial_sums.py): under sequence parallelism the norms and the biases of `output` and `down` saw only a
    slice of the tokens; and key and value heads that are fewer than the ranks are held whole by all, each rank's
    gradient coming from its own queries only.
    Parameters stay on their device and the same objects, with `.data` sliced.
    Raises ValueError for a model that is not a Transformer or is split already, or whose heads or d_ff do not divide.
    """
    instance("tensor_parallel", "group", group, Group, "the worker's first argument")
    flag("tensor_parallel", "sequence_parallel", sequence_parallel)
    _check(model, group)
    if group.size == 1:
        return model
    region = Region(group, sequence_parallel)
    for block in model.blocks:
        assert isinstance(block, Block)
        split_attention(block.attention, region)
        split_experts(block.mlp, region) if isinstance(block.mlp, MoE) else split_mlp(block.mlp, region)
    if sequence_parallel:
        split_tokens(model, group)
    split_vocabulary(model, region)
    sum_after_backward(model.parameters())
    note_split(model, tp=group, sequence_parallel=sequence_parallel)
    return model


@dataclass(frozen=True, eq=False)
class Region:
    """Where each rank works on its own features of all tokens: how the residual stream comes in, and how it leaves."""

    group: Group
    sequence_parallel: bool = False

    def enter(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Replicate, or Shard(1) of the tokens -> Replicate."""
        return all_gather_from(x, self.group, 1) if self.sequence_parallel else copy_to(x, self.group)

    def leave(self, y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Partial -> Replicate, or Shard(1) of the tokens."""
        return reduce_scatter_to(y, self.group, 1) if self.sequence_parallel else reduce_from(y, self.group)


def split_attention(attention: Attention, region: Region) -> None:
    """Each rank its heads: columns of query, key and value, and the rows of output that belong to them."""
    split_columns(attention.query, region.group)
    for linear in (attention.key, attention.value):
        n_head = linear.out_features // attention.head_dim
        if n_head % region.group.size == 0:
            split_columns(linear, region.group)
        else:
            use_one_head(linear, n_head, region.group)
    split_rows(attention.output, region)
    enter_before(attention, region)
    leave_after(attention, "output", region)


def split_mlp(mlp: nn.Module, region: Region) -> None:
    """Each rank its d_ff/p inner features, of `gate` and `up` alike."""
    assert isinstance(mlp, (MLP, SwiGLU))
    split_columns(mlp.up, region.group)
    if isinstance(mlp, SwiGLU):
        split_columns(mlp.gate, region.group)
    split_rows(mlp.down, region)
    enter_before(mlp, region)
    leave_after(mlp, "down", region)


def split_experts(moe: MoE, region: Region) -> None:
    """Make each expert a region of its own. The router sees all tokens, on every rank alike, and is not split."""
    for expert in [*moe.experts, *moe.shared]:
        split_mlp(expert, Region(region.group))
    if region.sequence_parallel:
        gather_tokens(moe, region.group)


def split_vocabulary(model: Transformer, region: Region) -> None:
    """Each rank V/p rows of the table (a tied one is split once), and a loss that needs no more than its logits."""
    if model.embedding is not None:
        split_table(model.embedding.token, region.group)
    if model.head is not None:
        enter_before(model.head, region)
        if shard_of(model.head.weight) is None:
            split_columns(model.head, region.group)
        split_targets(model, region.group)


# --- one matrix -------------------------------------------------------------------------------------------------------


def split_columns(linear: Linear, group: Group) -> None:
    """Keep this rank's output features: y is Shard(-1)."""
    for parameter in linear.parameters(recurse=False):
        shard(parameter, group, 0)
    if isinstance(linear.multiply, LowRank):  # s (x Aᵀ) [B_0 | B_1]ᵀ: every rank's features pull at the one A
        shard(linear.multiply.lora_b, group, 0)
        mark_partial([linear.multiply.lora_a], group)


def split_rows(linear: Linear, region: Region) -> None:
    """Keep this rank's input features: y is Partial, one summand of the whole. Its bias waits for the sum."""
    assert isinstance(linear.weight, nn.Parameter)
    shard(linear.weight, region.group, 1)
    linear.forward = partial(without_bias, linear)  # type: ignore[method-assign]
    if linear.bias is not None and region.sequence_parallel:
        mark_partial([linear.bias], region.group)  # it meets this rank's slice of the tokens
    if isinstance(linear.multiply, LowRank):  # s (x_r A_rᵀ) Bᵀ is a summand too, and so is what it says of B
        shard(linear.multiply.lora_a, region.group, 1)
        mark_partial([linear.multiply.lora_b], region.group)


def without_bias(linear: Linear, x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B O"]:
    return linear.multiply(x, linear.weight, None)


def use_one_head(linear: Linear, n_head: int, group: Group) -> None:
    """Keep all n_head < p heads, but compute the one that this rank's queries look at; p/n_head ranks share a head."""
    head_dim, head = linear.out_features // n_head, group.rank * n_head // group.size
    mark_partial(linear.parameters(), group)  # each rank's gradient is its own head's, as its own queries see it
    rows = slice(head * head_dim, (head + 1) * head_dim)
    linear.forward = partial(one_head, linear, rows)  # type: ignore[method-assign]
    if isinstance(linear.multiply, LowRank):
        linear.multiply.rows = rows


def one_head(linear: Linear, rows: slice, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
    return linear.multiply(x, linear.weight[rows], None if linear.bias is None else linear.bias[rows])


# --- the doors --------------------------------------------------------------------------------------------------------


def enter_before(module: nn.Module, region: Region) -> None:
    """Let the module's first argument through the door; the others are the same on every rank anyway."""

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return region.enter(args[0]), *args[1:]

    module.register_forward_pre_hook(enter)


def leave_after(module: nn.Module, last: str, region: Region) -> None:
    """Add the ranks' summands up, and then, once, the bias of the module's last layer."""

    def leave(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        linear, y = module.get_submodule(last), region.leave(y)
        assert isinstance(linear, Linear)
        return y if linear.bias is None else y + linear.bias.to(y.dtype)

    module.register_forward_hook(leave)


def _check(model: nn.Module, group: Group) -> None:
    if not isinstance(model, Transformer):
        raise ValueError(f"tensor_parallel wants a Transformer, got {type(model).__name__}")
    if any(shard_of(parameter) is not None for parameter in model.parameters()):
        raise ValueError("tensor_parallel wants a model that is not split yet, got one that is")
    check_not_laid_out("tensor_parallel", model)
    Layout(tp=group.size).check(model.config, batch=1, seq=1)
