"""Bytes one rank needs at its peak, by category. Activations as in Korthikanti et al. 2022, sections 4 and 5."""

from __future__ import annotations

from llmlab.cost.sizes import Sizes

RUNTIME_BYTES = int(1.5 * 2**30)  # context, libraries and their buffers; a guess that fits published peaks


def memory(x: Sizes, recompute: str) -> dict[str, float]:
    """Bytes by category on the fullest stage: the first, the second (it may have a layer more) or the last."""
    last = x.layout.pp - 1
    stages = [_stage(x, recompute, stage) for stage in sorted({0, min(1, last), last})]
    return max(stages, key=lambda stage: sum(stage.values()))


def _stage(x: Sizes, recompute: str, stage: int) -> dict[str, float]:
    layout = x.layout
    params, sharded = x.params(stage), x.sharded_params(stage)
    master = 12 if x.w == 2 else 2 * x.w  # fp32 weights and Adam's two moments; fp32 training keeps no second copy
    return {
        "parameters": x.w * (sharded + 2 * x.layer_params if layout.zero == 3 else params),
        "gradients": x.g * (sharded if layout.zero >= 2 else params),
        "optimizer": master * (sharded if layout.zero >= 1 else params),
        "activations": x.layers(stage) * in_flight(x, stage) * layer_activations(x, recompute),
        # the layer being computed again; and the fp32 logits with their gradient, where the loss is
        "working": (layer_activations(x, "none") if recompute == "full" else 0.0)
        + _logits(x) * (stage == layout.pp - 1),
        "runtime": RUNTIME_BYTES,
    }


def layer_activations(x: Sizes, recompute: str) -> float:
    """Bytes one layer keeps for its backward on one micro-batch: s b h (10 + 24/t + 5 a s/(h t)) for GPT-3, 16 bits.

    `selective` computes the attention core again, `full` everything but the layer's input.
    """
    c, t = x.config, x.layout.tp
    split = 1 / t if x.layout.sequence_parallel else 1.0
    hidden = x.n * c.d_model
    if recompute == "full":
        return x.w * hidden * split
    mask = 1 if getattr(c, "dropout", 0.0) else 0
    whole = 4 * x.w + 2 * mask  # two norms' inputs, two block inputs, two dropout masks
    ratio = x.active_experts * c.d_ff / c.d_model
    kv = x.kv_width / c.d_model
    sharded = 2 * x.w * (1 + kv) + x.mlp_matrices * x.w * ratio  # q, k, v, context; the MLP's inner values
    scores = 0.0
    if recompute == "none" and not x.fused_attention:
        scores = (2 * x.w + mask) * x.n * x.T * c.n_head / t  # softmax's output, dropout's mask and output
    return hidden * (whole * split + sharded / t) + scores


def in_flight(x: Sizes, stage: int) -> float:
    """Micro-batches whose activations a stage holds at once."""
    layout = x.layout
    if layout.pp == 1:
        return 1.0
    if layout.schedule == "gpipe":
        return x.m
    extra = (layout.pp - 1) / (layout.pp * layout.virtual_stages) if layout.virtual_stages > 1 else 0.0
    return min(x.m, layout.pp - stage) * (1 + extra)


def _logits(x: Sizes) -> float:
    return x.n * x.config.vocab_size / x.layout.tp * (x.w + 4 + 4)
