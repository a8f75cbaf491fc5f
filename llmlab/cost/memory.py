"""Bytes one rank needs at its peak, by category. Activations as in Korthikanti et al. 2022, sections 4 and 5."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmlab.cost.arrays import ByName, Counts, Numbers
from llmlab.cost.sizes import Sizes

RUNTIME_BYTES = int(1.5 * 2**30)  # context, libraries and their buffers; a guess that fits published peaks


def fullest_stage(x: Sizes, held: Callable[[Counts], ByName]) -> ByName:
    """Bytes by category on the fullest stage: the first, the second (it may have a layer more) or the last.

    `held`: bytes by category of a rank of one stage.
    """
    last = x.layout.pp - 1
    # 0 * last: an array where `last` is one, so that all three have its shape
    stages = [held(stage) for stage in (0 * last, np.minimum(1, last), last)]
    fullest = np.argmax(np.stack([sum(stage.values()) for stage in stages]), axis=0)
    return {name: np.choose(fullest, [stage[name] for stage in stages]) for name in stages[0]}


def stage_memory(x: Sizes, stage: Counts, fused: bool, activations: float) -> ByName:
    """Bytes by category of a rank of this stage. `activations`: a factor on what is kept for backward."""
    zero = x.layout.zero
    params, sharded = x.params(stage), x.sharded_params(stage)
    master = 12 if x.w == 2 else 2 * x.w  # fp32 weights and Adam's two moments; fp32 training keeps no second copy
    kept = activations * layer_activations(x, fused)
    whole = activations * layer_activations(x, fused, recompute=0)
    return {
        "parameters": x.w * np.where(zero == 3, sharded + 2 * x.layer_params, params),
        "gradients": x.g * np.where(zero >= 2, sharded, params),
        "optimizer": master * np.where(zero >= 1, sharded, params),
        "activations": x.layers(stage) * in_flight(x, stage) * kept,
        # the layer being computed again; and the fp32 logits with their gradient, where the loss is
        "working": np.where(np.asarray(x.recompute) == 2, whole, 0.0) + _logits(x) * (stage == x.layout.pp - 1),
        "runtime": RUNTIME_BYTES + 0 * params,  # of the others' shape, to be chosen with them
    }


def layer_activations(x: Sizes, fused: bool, recompute: Counts | None = None) -> Numbers:
    """Bytes one layer keeps for its backward on one micro-batch: s b h (10 + 24/t + 5 a s/(h t)) for GPT-3, 16 bits.

    Selective recomputation computes the attention core again, full everything but the layer's input.
    """
    c, t = x.config, x.layout.tp
    hidden = x.n * c.d_model
    mask = np.where(np.asarray(getattr(c, "dropout", 0.0)) > 0, 1, 0)
    whole = 4 * x.w + 2 * mask  # two norms' inputs, two block inputs, two dropout masks
    ratio = (x.dense_mlps + x.active_experts) * c.d_ff / c.d_model
    # q, k, v, context; the MLP's inner values
    sharded = 2 * x.w * (x.q_width + x.kv_width) / c.d_model + x.mlp_matrices * x.w * ratio
    kept = hidden * (whole * x.split + sharded / t) + 2 * x.w * x.n * x.latents  # before and after their norms
    # softmax's output, dropout's mask and output
    scores = 0.0 if fused else (2 * x.w + mask) * x.n * x.T * c.n_head / t
    input = x.w * (hidden * x.split + x.n * (x.kept + x.kept_core * x.q_width) / t)  # and what is not computed again
    found = np.choose(x.recompute if recompute is None else recompute, [kept + scores, kept, input])
    return found if recompute is not None else x.again * found + (1 - x.again) * (kept + scores)


def in_flight(x: Sizes, stage: Counts) -> Numbers:
    """Micro-batches whose activations a stage holds at once."""
    layout = x.layout
    v, behind = layout.virtual_stages, layout.pp - 1 - stage
    waiting = np.where(v > 1, (2 * behind + (v - 1) * layout.pp + 1) / v, behind + 1)
    kind = np.asarray(layout.schedule)
    # ZB-2p starts as many forwards as fill the pipeline's way there and back (Qi et al. 2024, section 2.2)
    waiting = np.where(kind == "zb_2p", 2 * layout.pp - 1, waiting)
    waiting = np.where(kind == "dualpipe", layout.pp + 1, waiting)  # DeepSeek-AI 2024, V3's report, table 2
    return np.where(layout.pp == 1, 1.0, np.where(kind == "gpipe", x.m, np.minimum(x.m, waiting)))


def _logits(x: Sizes) -> Numbers:
    return x.n * x.config.vocab_size / x.layout.tp * (x.w + 4 + 4)
