"""Seconds one rank computes: matrix products, attention, element-wise kernels, logits, optimizer.

Counted kernel by kernel from the model's text: FLOPs and HBM bytes on the device's roofline. Comments say what is read
(r) and written (w), in numbers of `Sizes.w` bytes or, where a digit follows, in bytes; the tensors are those of
Korthikanti et al. 2022, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmlab.cost.arrays import Counts, Numbers
from llmlab.cost.roofline import OF_HEADS, Roofline
from llmlab.cost.sizes import Sizes
from llmlab.cost.software import Library
from llmlab.cost.stack import Stack

# Batched products of unfused attention (heads 64 to 128 wide) reach about half the roofline: with 0.5 the core of
# Korthikanti et al. 2022, Table 4, takes its measured 1.3 ms.
BATCHED_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Layer:
    """Device seconds of one layer (or of the logits) on one micro-batch, forward or backward."""

    matmul: Numbers
    attention: Numbers
    elementwise: Numbers
    launch: Numbers = 0.0

    @property
    def device(self) -> Numbers:
        return self.matmul + self.attention + self.elementwise

    def host(self, traffic: Numbers = 0.0) -> Numbers:
        """Seconds that the device waits for the host, which launches ahead while messages travel, too."""
        return np.maximum(0.0, self.launch - self.device - traffic)


def layer_forward(x: Sizes, on: Roofline, stack: Stack) -> Layer:
    launches, _ = stack.software.launches(x)
    moved = on.moving(stack.software.forward(x) + casts(x, on)[0]) + launches * on.ramp_s
    return Layer(layer_products(x, on), attention(x, on, stack.fused_attention), moved, launches * on.launch_s)


def layer_backward(x: Sizes, on: Roofline, stack: Stack) -> Layer:
    """Two products for each of forward's: the gradient of the input, and the gradient of the weight."""
    _, launches = stack.software.launches(x)
    nbytes = stack.software.backward(x) + casts(x, on)[1] + x.layer_params * stack.software.accumulate(x)
    moved = on.moving(nbytes) + launches * on.ramp_s
    return Layer(
        2 * layer_products(x, on), attention_backward(x, on, stack.fused_attention), moved, launches * on.launch_s
    )


def layer_products(x: Sizes, on: Roofline) -> Numbers:
    """The products of a layer forward, each split over tp: a mean over layers, where they differ.

    Four of a plain layer (five with a gate); the experts' as one batch.
    """
    c, t = x.config, x.layout.tp
    d, f = c.d_model, c.d_ff / t
    up = (x.mlp_matrices - 1) * f
    seconds = projections(x, on)
    seconds = seconds + x.dense_mlps * (on.product(x.w, x.n, d, up) + on.product(x.w, x.n, f, d))
    if not np.any(x.n_expert):
        return seconds
    local = np.maximum(x.n_expert / x.layout.ep, 1)
    share = np.maximum(x.mixtures, 1e-9)  # of layers; `active_experts` is a mean over all of them
    rows = x.n * x.active_experts / share / local  # routing taken as balanced
    experts = on.product(x.w, rows, d, up, local) + on.product(x.w, rows, f, d, local)
    return seconds + np.where(x.active_experts > 0, share * experts, 0.0)


def projections(x: Sizes, on: Roofline) -> Numbers:
    """Attention's products: q, k and v in one, and the output; or latent attention's, down and up again. Down to the
    latents is the same on all tensor-parallel ranks."""
    c, t = x.config, x.layout.tp
    plain = on.product(x.w, x.n, c.d_model, (x.q_width + 2 * x.kv_width) / t)
    plain = plain + on.product(x.w, x.n, x.q_width / t, c.d_model)
    if not np.any(x.latents):
        return plain
    queries, keys, key, value = x.latent_widths
    down = on.product(x.w, x.n, c.d_model, x.latents) + np.where(
        queries > 0, on.product(x.w, x.n, queries, key / t), on.product(x.w, x.n, c.d_model, key / t)
    )
    up = on.product(x.w, x.n, keys, (value + c.n_head * c.head_dim) / t)
    return np.where(x.latents > 0, down + up + on.product(x.w, x.n, value / t, c.d_model), plain)


def casts(x: Sizes, on: Roofline) -> tuple[Numbers, Numbers]:
    """Bytes moved to bring what goes into products down to fewer bits: their inputs; in backward their gradients."""
    c, t = x.config, x.layout.tp
    mlps = x.dense_mlps + x.active_experts
    inputs = c.d_model * (1 + mlps) + (x.q_width + mlps * c.d_ff) / t
    gradients = c.d_model * (1 + mlps) + (x.q_width + 2 * x.kv_width + mlps * (x.mlp_matrices - 1) * c.d_ff) / t
    return on.cast * x.n * inputs, on.cast * x.n * gradients


def attention(x: Sizes, on: Roofline, fused: bool) -> Numbers:
    """Scores and weighted average forward: fused, or two batched products with T x T scores in HBM between them."""
    t = x.layout.tp
    if fused:
        qkvo = x.w * x.n * 2 * (x.q_width + x.kv_width) / t
        return np.maximum(4 * x.n * x.attended * x.q_width / t / on.attention, on.moving(qkvo))
    return 2 * _batched(x, on) + on.moving(_scores(x) * (4 * x.w + 1))  # softmax (r w), dropout (r w and its mask)


def attention_backward(x: Sizes, on: Roofline, fused: bool) -> Numbers:
    """Fused: the scores are computed again, five products for forward's two. Unfused: four, and the softmax's."""
    if fused:
        return 2.5 * attention(x, on, fused)
    return 4 * _batched(x, on) + on.moving(_scores(x) * (5 * x.w + 1))  # dropout (r w and mask), softmax (r r w)


def _batched(x: Sizes, on: Roofline) -> Numbers:
    heads = x.b * x.config.n_head / x.layout.tp
    seconds = on.product(x.w, x.T / x.layout.cp, x.config.head_dim, x.T, heads, OF_HEADS)
    return seconds / BATCHED_EFFICIENCY


def _scores(x: Sizes) -> Numbers:
    """Entries of T x T that one rank holds, over its heads."""
    return x.n * x.T * x.config.n_head / x.layout.tp


def logits(x: Sizes, on: Roofline, software: Library) -> Numbers:
    """Product with the embedding table, its two gradients, and the loss."""
    vocab = software.vocabulary(x)
    return 3 * on.product(x.w, x.n, x.config.d_model, vocab) + on.moving(x.n * vocab * software.loss(x))


def optimizer(x: Sizes, on: Roofline, software: Library, params: Numbers, stage: Counts) -> Numbers:
    """Update this rank's share of the parameters: all are moved, and small ones cost their launches."""
    moved = params * software.optimizer(x) + x.params(stage) * software.buckets(x)
    return on.moving(moved) + software.optimizer_launches(x, x.layers(stage)) * on.ramp_s
