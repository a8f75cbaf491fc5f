"""Seconds of a training step by cause: a roofline for the kernels, latency and bandwidth for the messages, a closed
form for the pipeline's bubble.

The terms can be left out one by one, so that a lesson shows what each is worth. Such predictions are mostly optimistic:
real software also loses time to hosts, clocks, networks and stragglers, which is what a `Stack` is for.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from llmlab.cost import compute, network
from llmlab.cost.arrays import ByName, Counts, LayoutLike, Numbers
from llmlab.cost.network import Axis
from llmlab.cost.roofline import Roofline
from llmlab.cost.sizes import Sizes
from llmlab.cost.software import Gather, Library, Pass
from llmlab.cost.stack import Stack
from llmlab.hardware import Cluster

TERMS = (
    "matmul", "attention", "elementwise", "logits", "recompute", "host", "tensor_parallel", "context_parallel",
    "expert_parallel", "bubble", "pipeline_messages", "data_parallel", "optimizer",
)  # fmt: skip
COMPUTED = ("matmul", "attention", "elementwise")


def step_seconds(
    x: Sizes, on: Cluster, stack: Stack, precision: str, without: Collection[str] = ()
) -> tuple[ByName, ByName]:
    """Seconds of a step by cause, and seconds of traffic hidden behind computing.

    m micro-batches at the pace of the slowest stage, the bubble, and what follows the last of them.
    """
    keep = {term: float(term not in without) for term in TERMS}  # 0 or 1: a term left out keeps its key, at 0 seconds
    line, software = stack.roofline(on.device, precision), stack.software
    axes = network.axes(x.layout, stack.wires(on), x.sharers)
    layer, hidden, forward, backward = _layer(x, line, axes, stack, keep)
    first, last = ({cause: keep[cause] * each for cause, each in end.items()} for end in software.ends(x, line, axes))
    last["logits"] = keep["logits"] * compute.logits(x, line, software)
    one_layer, at_first, at_last = (sum(part.values()) for part in (layer, first, last))
    stage, layers, is_first, is_last = slowest_stage(x, one_layer, at_first, at_last)

    step = {cause: x.m * layers * seconds for cause, seconds in layer.items()}
    for end, here in ((first, is_first), (last, is_last)):  # without a pipeline the slowest stage is both ends
        step |= {cause: step.get(cause, 0.0) + x.m * here * seconds for cause, seconds in end.items()}
    whole = x.config.n_layer * one_layer + at_first + at_last
    slowest = layers * one_layer + is_first * at_first + is_last * at_last
    # weight gradients, one of the two products of backward, are as long as the products forward
    weights = (x.config.n_layer - layers) * keep["matmul"] * compute.layer_products(x, line)
    back = (x.config.n_layer - layers) * (backward.free + backward.busy)
    step["bubble"] = keep["bubble"] * bubble(x.layout, x.m, whole - slowest, weights, back)
    message = keep["pipeline_messages"] * 2 * axes["pp"].message(x.w * x.n * x.config.d_model * software.message(x))
    step["pipeline_messages"] = software.waiting(x, message, whole, slowest)
    ending = software.ending(stage)

    # a pass goes through the layers of the stage that ends last; through none where a software overlaps nothing
    behind = x.layers(ending) * stack.overlap_gradients * stack.overlap
    total, exposed = software.data_parallel(x, Gather(axes), ending, forward.times(behind), backward.times(behind))
    step["data_parallel"] = keep["data_parallel"] * exposed
    params = np.where(x.layout.zero > 0, x.sharded_params(ending), x.params(ending))
    step["optimizer"] = keep["optimizer"] * compute.optimizer(x, line, software, params, ending)
    # last, for a software may set it against all the other seconds
    step["host"] = keep["host"] * software.host(x, line, step, x.layers(ending))
    hidden = {cause: x.m * layers * seconds for cause, seconds in hidden.items()}
    return step, hidden | {"data_parallel": keep["data_parallel"] * (total - exposed)}


def _layer(
    x: Sizes, line: Roofline, axes: dict[str, Axis], stack: Stack, keep: dict[str, float]
) -> tuple[ByName, ByName, Pass, Pass]:
    """One layer's seconds by cause on one micro-batch, what hides behind attention, and forward and backward whole."""
    ahead, back = compute.layer_forward(x, line, stack), compute.layer_backward(x, line, stack)
    software, region = stack.software, keep["tensor_parallel"] * network.hidden_values(x, axes["tp"])
    tp = keep["tensor_parallel"] * software.summed(x, axes["tp"]) * (1 - stack.tp_overlap)
    ep = keep["expert_parallel"] * network.expert_parallel(x, axes["ep"], software.routed(x), software.once_a_node)
    ep = (1 - stack.ep_overlap) * ep
    # pairs are (forward, backward) from here on
    traffic, shown_cp = (
        [keep["context_parallel"] * each for each in pair]
        for pair in context_parallel(x, line, axes["cp"], software, (ahead.attention, back.attention))
    )
    computed = [{cause: keep[cause] * getattr(part, cause) for cause in COMPUTED} for part in (ahead, back)]
    for i, part in enumerate((ahead, back)):
        computed[i]["host"] = keep["host"] * part.host(tp + ep + shown_cp[i])
    forward, backward = (sum(part.values()) for part in computed)
    core = keep["attention"] * ahead.attention + shown_cp[0] + software.ring_again(x, line)
    full = forward + shown_cp[0] + tp + ep - x.kept_core * core - software.spared(x, line, region)
    again = np.choose(x.recompute, [0.0, core, full])  # none, selective (attention alone), full
    layer = {cause: computed[0][cause] + computed[1][cause] for cause in computed[0]} | {
        "recompute": keep["recompute"] * x.again * again,
        "tensor_parallel": 2 * tp,
        "context_parallel": sum(shown_cp),
        "expert_parallel": 2 * ep + keep["expert_parallel"] * software.small_messages(x, axes)[0],
    }
    hidden = np.maximum(0.0, traffic[0] - shown_cp[0]), np.maximum(0.0, traffic[1] - shown_cp[1])
    talk = [{"tp": tp, "ep": ep, "cp": seconds} for seconds in shown_cp]
    return layer, {"context_parallel": sum(hidden)}, *software.passes(axes, (forward, backward), again, talk, hidden)


def context_parallel(
    x: Sizes, line: Roofline, cp: Axis, software: Library, attention: tuple[Numbers, Numbers]
) -> tuple[list[Numbers], list[Numbers]]:
    """A layer's seconds of context traffic, and of those that show, forward and backward; `attention`: its own seconds.

    A ring's hop hides behind a step's attention and, after the first, behind adding its output to the others'; that
    adding does not hide. Ulysses exchanges tokens for heads before and after attention, and nothing hides it.
    """
    steps, hop = x.layout.cp - 1, network.context_parallel(x, cp)
    wide, home = software.gradient_hops(x)  # backward's hops carry keys and values, and their gradients
    merging = [line.moving(nbytes) for nbytes in software.merging(x)]
    beside = [line.moving(nbytes) + kernels * line.ramp_s for nbytes, kernels in software.beside(x)]
    block = [seconds / x.layout.cp for seconds in attention]

    def over(i: int, traffic: Numbers, added: int = 1) -> Numbers:  # of a hop, over what is computed meanwhile
        return np.maximum(0.0, traffic - block[i] - added * beside[i])

    first = [over(0, hop, 0), over(1, hop, 0) + over(1, wide * hop)]  # gradients go on a block later than keys
    rest = [over(0, hop), over(1, (1 + wide) * hop)]
    last = [0.0, home * wide * hop]
    shown = [(steps > 0) * (first[i] + (steps - 1) * rest[i] + last[i]) + steps * merging[i] for i in (0, 1)]
    ring = [steps * (hop + merging[0]), steps * ((1 + wide) * hop + merging[1]) + last[1]]
    heads = np.maximum(x.kv_width, x.kv_width / x.config.n_kv_head * x.layout.cp * x.layout.tp)  # copied, where few
    exchanged = cp.all_to_all(x.w * x.n * 2 * (x.q_width + np.minimum(heads, x.q_width)) / x.layout.tp)
    ulysses = np.asarray(x.layout.context) == "ulysses"
    traffic: list[Numbers] = [np.where(ulysses, exchanged, ring[i]) for i in (0, 1)]
    return traffic, [np.where(ulysses, exchanged, each) for each in shown]


def slowest_stage(x: Sizes, layer: Numbers, first: Numbers, last: Numbers) -> tuple[Counts, Counts, Counts, Counts]:
    """The stage that sets the pace, its layers, and whether it is the first and the last: seconds of a layer, and of
    what goes with the first and with the last layer."""
    end = x.layout.pp - 1
    # [3] or [3, n layouts]: last, second (it may have a layer more), first; of equals argmax takes the last stage
    stages = np.stack(np.broadcast_arrays(end, np.minimum(1, end), 0 * end))
    seconds = x.layers(stages) * layer + (stages == 0) * first + (stages == end) * last
    stage = np.take_along_axis(stages, seconds.argmax(0)[None], 0)[0]  # [1, n] picks from [3, n]: a stage a layout
    return stage, x.layers(stage), 1 * (stage == 0), 1 * (stage == end)


def bubble(layout: LayoutLike, m: Numbers, others: Numbers, weights: Numbers, back: Numbers) -> Numbers:
    """Seconds a rank stands idle while the pipeline fills and empties: one micro-batch's way through the other stages.

    Interleaving divides it by the virtual stages. Zero-bubble's first form fills it with weight gradients: of F + B + W
    a stage, F + B - W stay (Qi et al. 2024, table 2: ZB-H1); with m < pp there are only m - 1 W's to fill with, not
    pp - 1. ZB-2p holds twice as many micro-batches and none stays. DualPipe feeds the pipeline from both ends: of F + B
    a stage and B, with 3 W less, pp / 2 - 1 times (DeepSeek-AI 2024, V3's report, table 2). `weights`, `back`: of the
    other stages' weight gradients, and their backward.
    """
    filled = (np.minimum(m, layout.pp) - 1) / np.maximum(layout.pp - 1, 1)
    zb_h1 = np.maximum(0.0, others - (1 + filled) * weights)
    kind = np.asarray(layout.schedule)
    dualpipe = (layout.pp / 2 - 1) / np.maximum(layout.pp - 1, 1) * np.maximum(0.0, others + back - 3 * weights)
    one_way = np.where(kind == "zb_h1", zb_h1, np.where(kind == "zb_2p", 0.0, others / layout.virtual_stages))
    return np.where((kind == "dualpipe") & (layout.pp > 1), dualpipe, one_way)
