"""Bytes that a rank of `parallelize` with `optim.AdamW` holds at its fullest moment, by category.

A step has few moments at which a rank can be fullest, and `moments` writes them out. Attention is always fused. Most
was counted from the engine's text. Read off recorded peaks instead, and to be trusted less: how many messages are held
in a loss and in an interleaved backward, what ring attention works with, and what of a mixture is gone by its last
expert's gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmlab.cost.arrays import ByName, Counts, Numbers
from llmlab.cost.memory import in_flight
from llmlab.cost.sizes import Sizes
from llmlab.cost.software import inner

BUCKET_BYTES = 25 * 2**20  # that travel together


class Moment(NamedTuple):
    """Bytes that come and go, as they are at one moment of a step."""

    activations: Numbers  # of all micro-batches under way, with their messages
    gradients: Numbers
    working: Numbers
    gathered: Numbers  # weights, in ZeRO-3


def needed(x: Sizes, stage: Counts) -> ByName:
    """Bytes of a rank of this stage, by category, at the fullest moment."""
    zero, params, sharded = x.layout.zero, x.params(stage), x.sharded_params(stage)
    parts = [np.stack(np.broadcast_arrays(*part)) for part in zip(*moments(x, stage), strict=True)]
    fullest = np.sum(parts, axis=0).argmax(0)[None]  # [n moments, n layouts] -> which moment, for each layout its own
    kept, gradients, working, gathered = (np.take_along_axis(part, fullest, 0)[0] for part in parts)
    return {
        "parameters": x.w * np.where(zero == 3, sharded, params) + gathered,
        # with the buckets that replicas add up in, which a single one has, too
        "gradients": gradients + np.where(zero == 0, x.w * params, 0),
        "optimizer": 2 * x.w * np.where(zero >= 1, sharded, params),
        "activations": kept,
        "working": working,
        "runtime": 0 * params,  # simulated ranks load no libraries; 0 of the others' shape
    }


def moments(x: Sizes, stage: Counts) -> list[Moment]:
    """The moments at which a rank of this stage may be fullest: with the most micro-batches under way; where gradients
    of none are there by then, with those of the first instead of what it kept; and at the end of the step."""
    zero, end, gpipe = x.layout.zero, x.layout.pp - 1, np.asarray(x.layout.schedule) == "gpipe"
    params, last, under_way = x.params(stage), stage == end, in_flight(x, stage)
    table, around = table_bytes(x, stage), x.w * (params - x.layers(stage) * x.layer_params)
    made = x.w * np.where(zero >= 2, x.sharded_params(stage), params)
    loss, one, owes = loss_bytes(x)[0], x.layers(stage) * layer_bytes(x), owed_by_stage(x, stage)
    owed = zero_bubble(x) * (np.minimum(x.m, stage + under_way) - under_way)  # micro-batches that wait for their W
    # GPipe's last stage keeps every micro-batch's loss
    kept = under_way * one + owed * owes + last * gpipe * (x.m - 1) * loss
    gone = np.where(owed > 0, owes, one / x.layout.virtual_stages + last * gpipe * loss)
    piled = np.where(x.m > under_way + owed, made, 0)  # from the micro-batches before
    again = (piled == 0) & (x.m > 1)
    later = np.where(again, kept - gone, kept), np.where(again, made / x.layout.virtual_stages, piled)
    tables = (zero == 3) * around
    # a tied table's gradients are added, from both ends of a pipeline
    ending = table * np.where(end == 0, 2, 3) + (zero >= 2) * around
    return [*passes(x, stage, kept, piled), *passes(x, stage, *later), Moment(0 * kept, made, ending, tables)]


def passes(x: Sizes, stage: Counts, kept: Numbers, there: Numbers) -> list[Moment]:
    """The moments of a micro-batch's forward and backward. `kept`: bytes of all under way; `there`: of gradients."""
    zero, end, zb, w, layers = x.layout.zero, x.layout.pp - 1, zero_bubble(x), x.w, x.layers(stage)
    alone, first, last = end == 0, stage == 0, stage == end
    chunk = layers / x.layout.virtual_stages  # layers that one backward goes through
    table, layer = table_bytes(x, stage), w * x.layer_params
    around, one, owes = w * (x.params(stage) - layers * x.layer_params), layer_bytes(x), owed_bytes(x)
    head = owed_by_stage(x, stage) - layers * owes
    left = zb * (chunk * owes + head) - chunk * one  # what a backward leaves, less what it frees
    ahead, back, at_loss = messages(x, stage)
    # gradients that have no place yet; a pipeline's stage has all of them before it sends any
    new, held = np.where(zero >= 2, 1, there == 0), ~zb & ((zero < 2) | ~alone)
    at = there + on_way_bytes(x, stage) * (there > 0)
    # ZeRO-2 and 3 have received, by the last block, what the others' gradients were reduced to
    received = ((zero >= 2) & alone & (there == 0)) * w * x.sharded_params(stage) / np.maximum(layers, 1)
    in_mlp, in_attention = (at + ~zb * part for part in layer_gradients(x, new))
    before = new * held * (chunk - 1) * layer + np.maximum(0, layers - 2) * received
    # the head's part of a tied gradient waits for the embedding's, alone or in a bucket; ZB-H1's is not made yet
    tied = np.where(alone, table + (zero > 0) * around, last * (zero >= 2) * ~zb * table)
    tables, weights = (zero == 3) * around, (zero == 3) * layer
    blocks = np.minimum(layers, 2) * weights  # the next one's are fetched, too
    # but a block that ends a stage's forward is still whole, and nothing is fetched until backward is through it
    whole = ~last & (np.asarray(x.recompute) == 0) & (x.layout.virtual_stages == 1)
    at_first = np.where(whole, weights, blocks)
    flying = alone * in_flight_bytes(x) * (layers > 1)
    at_end = flying * ~((zero == 2) & (x.layout.ep > 1))  # experts' buckets have taken its turn by then
    mlp, attention = (part + tied for part in block_bytes(x))
    in_first = kept + back + head
    # no such moment (minus infinity) where backward has no block between its first and its last
    in_second = kept + back - np.where(~zb & (chunk > 2), one, np.inf)
    in_last = kept + back + left + np.where(zb, one - owes, one)
    in_last = in_last + (~alone & (chunk > 1)) * hidden_bytes(x) * x.split  # the gradient that came is still there
    ended = at + new * held * (chunk * layer + ~alone * around)
    return [
        Moment(kept + ahead, at, forward_bytes(x), blocks),
        Moment(kept, at, (sum(loss_bytes(x)) + at_loss) * last, tables * last),
        Moment(in_first, in_mlp, mlp, at_first),
        Moment(in_first, in_attention, attention, at_first),
        Moment(in_second, in_mlp + new * held * layer + flying, mlp, blocks),
        Moment(in_second, in_attention + new * held * layer + at_end, attention, blocks),
        Moment(in_last, in_mlp + before + flying, mlp, weights),
        Moment(in_last, in_attention + before + at_end, attention, weights),
        # it has gone through its blocks: the embedding's gradient is a whole table
        Moment(kept + back + left, ended, np.where(alone, 2 * table, np.where(first, table, largest(x))), tables),
        # W makes all of a stage's gradients, and frees what they are made of when it is through
        Moment(zb * (kept + left + back), zb * (at + new * (layers * layer + around)), zb * largest(x), 0.0),
    ]


# --- gradients --------------------------------------------------------------------------------------------------------


def layer_gradients(x: Sizes, new: Counts) -> tuple[Numbers, Numbers]:
    """Bytes of gradients of the layer that backward is in: in its MLP, and in its attention; `new`: they have no place
    yet. The bucket that is sent first is full last, with the attention's, so all of a layer wait; but experts' have
    left before, where they need not wait for a pipeline's schedule: all but the last bucket has come."""
    zero, routed = x.layout.zero, x.active_experts > 0
    filling = np.choose(zero, [0, bucket_bytes(x), bucket_bytes(x), x.w * x.layer_params])
    experts = x.w * x.expert_params
    sent = experts * x.layout.ep / x.sharers + np.minimum(experts, np.maximum(BUCKET_BYTES, largest(x)))
    left = np.where(routed & (x.layout.ep > 1) & (zero == 2) & (x.layout.pp == 1), sent - experts, 0)
    # experts that all ranks have are in a block's own buckets; by the last one's gradients the others' values are gone
    count, each = np.maximum(1, x.n_expert), 2 * x.config.d_ff / x.config.d_model / x.layout.tp + 1
    gone = hidden_bytes(x) * x.active_experts * (each * (1 - 1 / count) + 2)  # with what was weighed, and its gradient
    filling = np.where(routed & (zero == 2), np.maximum(bucket_bytes(x), experts - gone), filling)
    elsewhere = routed & ((x.layout.ep > 1) | (zero < 2))
    return np.where(elsewhere, 0, new * filling + largest(x)), np.where(new, x.w * x.layer_params + left, largest(x))


def largest(x: Sizes) -> Numbers:
    """Bytes of a layer's largest matrix: of its gradient as it is made."""
    return x.w * x.config.d_model * np.maximum(x.q_width, x.config.d_ff) / x.layout.tp


def table_bytes(x: Sizes, stage: Counts) -> Numbers:
    """Bytes of the table that the first and the last stage have."""
    ends = (stage == 0) | (stage == x.layout.pp - 1)
    return ends * x.w * x.config.vocab_size * x.config.d_model / x.layout.tp


def bucket_bytes(x: Sizes) -> Numbers:
    """Bytes of the bucket that a layer's last matrix is in: it is filled from the last one on, until it holds enough.
    Experts have buckets of their own."""
    wide, square = (x.w * x.config.d_model * width / x.layout.tp for width in (x.config.d_ff, x.q_width))
    rest = np.where(x.active_experts > 0, BUCKET_BYTES, np.maximum(0, BUCKET_BYTES - 2 * wide))
    small = np.minimum(4, np.ceil(rest / square)) * square
    dense = np.where(wide >= BUCKET_BYTES, wide, 2 * wide + small)
    experts = np.minimum(x.w * x.expert_params, np.ceil(BUCKET_BYTES / wide) * wide)
    return np.where(x.active_experts > 0, np.where(x.layout.ep > 1, small, experts), dense)


def in_flight_bytes(x: Sizes) -> Numbers:
    """Bytes of the last bucket that ZeRO-2 or 3 sent of the block before, and of what comes of it: it is let go when
    the next one is sent, at the end of a block."""
    bucket = np.where(x.layout.zero == 3, x.w * x.layer_params, bucket_bytes(x))
    return (x.layout.zero >= 2) * bucket * (1 + 1 / x.sharers)


def on_way_bytes(x: Sizes, stage: Counts) -> Numbers:
    """Bytes of the last bucket that ZeRO-2 or 3 sent of a pipeline's stage: it waits for the next one. A first stage's
    is of positions."""
    spread = np.where(x.layout.ep > 1, x.expert_params, 0)  # they have left by then
    bucket = np.where(x.layout.zero == 3, x.w * (x.layer_params - spread), bucket_bytes(x))
    bucket = np.where((stage == 0) & (x.layout.virtual_stages == 1), x.w * x.positions, bucket)
    return ((x.layout.zero >= 2) & (x.layout.pp > 1)) * bucket


# --- activations ------------------------------------------------------------------------------------------------------


def zero_bubble(x: Sizes) -> NDArray[np.bool_]:
    """Whether weights' gradients are made apart, later."""
    return np.asarray(x.layout.schedule) == "zb_h1"


def hidden_bytes(x: Sizes) -> Numbers:
    """Bytes of the residual stream of a micro-batch."""
    return x.w * x.n * x.config.d_model


def messages(x: Sizes, stage: Counts) -> tuple[Numbers, Numbers, Numbers]:
    """Bytes of messages at the end of a forward, in a backward, and in a loss.

    What is sent is kept until something comes back that tells it was taken: outputs of all first forwards, and later
    one output and one gradient. The next input is asked for early.
    """
    kind, behind = np.asarray(x.layout.schedule), x.layout.pp - 1 - stage
    usual = (behind > 0) + 2 * (stage > 0)
    sent = (behind > 0) * np.where(kind == "gpipe", x.m - 1, np.minimum(x.m - 1, behind))
    ahead = np.maximum(sent, np.where(x.m > behind + 1, usual, 0))
    # two stages of a rank have twice as many; GPipe has taken all inputs before the first backward
    back = np.where(x.layout.virtual_stages > 1, 4, np.where(kind == "gpipe", stage > 0, usual))
    each = hidden_bytes(x) * x.split
    return ahead * each, back * each, (x.layout.pp > 1) * np.minimum(2, x.m - 1) * each


def forward_bytes(x: Sizes) -> Numbers:
    """Bytes that a layer's forward works with at its end: the output, what was added to it, and under tp what that was
    summed from; where nothing else is kept, its inner values before that."""
    share = x.active_experts / np.maximum(x.n_expert / x.layout.ep, 1)  # of the choices, that one expert has
    wide = (x.dense_mlps + share) * x.config.d_ff / x.config.d_model
    inside = x.split + 1 + 2 * wide / x.layout.tp + 2 * x.active_experts
    numbers = np.where(x.layout.tp > 1, 2 * x.split + 1, 2)
    return hidden_bytes(x) * np.where(np.asarray(x.recompute) == 2, np.maximum(numbers, inside), numbers)


def owed_by_stage(x: Sizes, stage: Counts) -> Numbers:
    """Bytes a stage of ZB-H1 keeps of a micro-batch from B to W."""
    head = (stage == x.layout.pp - 1) * x.w * x.n * (x.config.vocab_size / x.layout.tp + x.config.d_model)
    return zero_bubble(x) * head + x.layers(stage) * owed_bytes(x)


def layer_bytes(x: Sizes, recompute: Counts | None = None) -> Numbers:
    """Bytes one layer keeps of one micro-batch: inputs of two norms, and what they give, whole after a gather."""
    c, t, w = x.config, x.layout.tp, x.w
    # of every choice the token sent, as it came and as its expert has it, and what is weighed
    hidden, routed = w * x.n * c.d_model, 3 * x.active_experts
    heads = 2 * (x.q_width + x.kv_width) / c.d_model + 2 * inner(x)
    statistics = 4 * x.n * (4 * x.split + c.n_head / t)
    kept = hidden * (2 * x.split + 2 + routed + heads / t) + statistics
    return np.choose(x.recompute if recompute is None else recompute, [kept, kept, hidden * x.split])


def owed_bytes(x: Sizes) -> Numbers:
    """Bytes a layer keeps from B to W: every product's input, and its output's gradient."""
    heads = 2 * (x.q_width + x.kv_width) / x.config.d_model + 2 * inner(x)
    whole = np.where(x.active_experts > 0, 3 + 2 * x.active_experts, 4)
    return x.w * x.n * x.config.d_model * (whole + heads / x.layout.tp)


def block_bytes(x: Sizes) -> tuple[Numbers, Numbers]:
    """Bytes that a block's backward works with, in its MLP and in its attention: less what it has given back by then.

    In an MLP gradients are in the middle, of inner values and of the residual stream; or before the first product,
    where they are summed over ranks. Experts come one after another: of a mixture it is one's inner values, or choices'
    gradients, weighed, handed over and arrived. ZB-H1 gives nothing back, as all that products took is owed.
    """
    c, t, sp, zb = x.config, x.layout.tp, 1 * x.layout.sequence_parallel, zero_bubble(x)
    again = np.where(np.asarray(x.recompute) == 2, layer_bytes(x, 0) - layer_bytes(x, 2), 0)
    summed, wide = np.where(t > 1, 2, 0), c.d_ff / c.d_model / t * x.dense_mlps
    each = x.active_experts * c.d_ff / c.d_model / t / np.maximum(x.n_expert / x.layout.ep, 1)
    middle = 1 + sp * x.split + np.where(zb, 2, 1) * wide
    before = np.where(zb, 1, 1 - wide) + np.where(sp, 1 + np.where(zb, 1, 2) * x.split + zb, summed)
    routed = x.active_experts > 0
    # sequence parallelism gathers the gradient of what a mixture gave
    mixed = routed * (sp + np.maximum(3 * x.active_experts, 1 + np.where(zb, 2, 1) * each))
    heads = (
        2
        + (x.q_width + 2 * x.kv_width) / c.d_model / t
        + np.where(zb, 2 * sp, -2 * inner(x) / t - 3 * x.active_experts)
    )
    ring = ring_numbers(x) + (zb & (x.layout.cp > 1)) * (2 * inner(x) / t + 1 + 2 * sp)
    mlp, attention = (
        np.maximum(np.maximum(middle, before), mixed),
        np.where(routed & (x.layout.cp == 1), heads, np.maximum(ring, heads)),
    )
    return again + hidden_bytes(x) * mlp, again + hidden_bytes(x) * attention


def ring_numbers(x: Sizes) -> Numbers:
    """Numbers for each hidden one that a ring's backward works with, less what its MLP has given back by then: the
    queries' and the output's gradients, keys and values in use and on their way, and the fp32 sums that go round.
    From nine recorded runs of wide and of grouped heads."""
    narrow, waiting = x.w == 2, np.minimum(x.layout.cp - 1, 2)
    queries, keys = (4.7, 12 + 2 * waiting) if narrow else (3.2, 4 + 4 * waiting)
    heads = (queries * x.q_width + keys * x.kv_width) / x.config.d_model
    return np.where(x.layout.cp > 1, (heads - 2 * inner(x)) / x.layout.tp - 1, 0)


def loss_bytes(x: Sizes) -> tuple[Numbers, Numbers]:
    """Bytes kept from the loss's forward to its backward, in fp32, and those that either works with beside them."""
    logits = x.n * x.config.vocab_size / x.layout.tp
    beside = np.where(x.layout.tp > 1, 4 + 2 * (x.w == 2), 8)
    return 4 * logits + x.w * x.n * x.config.d_model * (1 + x.split), beside * logits
