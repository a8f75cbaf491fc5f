"""Predict a training step from its sizes: seconds, memory, utilisation, and what each is spent on.

A roofline for the kernels, latency and bandwidth for the messages, a closed form for the pipeline's bubble. Constants
are published peaks, published efficiencies and counts of bytes (`data/hardware/`); one is fitted, to one layer's
measured attention (`compute.BATCHED_EFFICIENCY`). Such predictions are mostly optimistic: real stacks also lose time to
hosts, clocks, networks and stragglers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmlab.cost import compute, network
from llmlab.cost.memory import memory
from llmlab.cost.sizes import NUMBER_BYTES, Sizes
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster
from llmlab.parallel.layout import Layout

RECOMPUTE = ("none", "selective", "full")
MARGIN = 0.9  # of a device's memory; what an allocator loses is not modelled


@dataclass(frozen=True)
class Prediction:
    """One step. `breakdown`: seconds by cause, adding up to `seconds`; `memory`: bytes by category on the fullest rank.

    `mfu` counts the model's FLOPs, `hfu` the recomputed ones too, both as a share of peak.
    """

    seconds: float
    breakdown: dict[str, float]
    memory: dict[str, float]
    model_flops: float
    hardware_flops: float
    tokens: int
    ranks: int
    peak_flops_per_s: float
    capacity_bytes: int

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.capacity_bytes

    @property
    def verdict(self) -> str:
        """`fits`, `marginal` or `does not fit`: above MARGIN of the device, fragmentation may decide."""
        if not self.fits:
            return "does not fit"
        return "fits" if self.memory_bytes <= MARGIN * self.capacity_bytes else "marginal"

    @property
    def tflops_per_gpu(self) -> float:
        """Model TFLOP/s of one device."""
        return self.model_flops / self.seconds / self.ranks / 1e12

    @property
    def mfu(self) -> float:
        return self.model_flops / self.seconds / self.ranks / self.peak_flops_per_s

    @property
    def hfu(self) -> float:
        return self.hardware_flops / self.seconds / self.ranks / self.peak_flops_per_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def gpu_hours(self, tokens: float = 1e9) -> float:
        """Device-hours for so many tokens of training."""
        return tokens / self.tokens_per_s * self.ranks / 3600


def predict(
    config: Any,
    layout: Layout,
    cluster: str | Cluster = "a100",
    *,
    global_batch: int,
    seq: int,
    precision: str = "bf16",
    recompute: str = "none",
    fused_attention: bool = True,
    overlap_gradients: bool = True,
    gradient_bytes: int | None = None,
    layer_launch_s: float | None = None,
) -> Prediction:
    """Predict one training step with Adam. `global_batch`: sequences of `seq` tokens in the whole batch.

    `fused_attention=False` keeps T x T scores in memory; `overlap_gradients=False` starts the gradients' all-reduce
    after the last backward; `gradient_bytes` is 2 for 16-bit training unless given (Megatron accumulates in 4);
    `layer_launch_s` is what the host needs to launch a layer forward: 15 launches unless given (eager PyTorch of 2021
    to 2023 needs about 1 ms). Raises ValueError for an illegal layout.
    """
    if precision not in NUMBER_BYTES:
        raise ValueError(f"precision wants one of {', '.join(NUMBER_BYTES)}; got {precision!r}")
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute wants one of {', '.join(RECOMPUTE)}; got {recompute!r}")
    layout.check(config, global_batch, seq)
    on, w = find_cluster(cluster), NUMBER_BYTES[precision]
    b = global_batch / (layout.dp * layout.microbatches)
    x = Sizes(config, layout, b, seq, w, gradient_bytes or w, precision, fused_attention, layer_launch_s)
    breakdown = step_seconds(x, on, recompute, overlap_gradients)
    return Prediction(
        seconds=sum(breakdown.values()),
        breakdown=breakdown,
        memory=memory(x, recompute),
        model_flops=x.model_flops,
        hardware_flops=x.model_flops + _recomputed_flops(x, recompute),
        tokens=global_batch * seq,
        ranks=layout.ranks,
        peak_flops_per_s=on.device.peak(precision),
        capacity_bytes=on.device.memory_bytes,
    )


def step_seconds(x: Sizes, on: Cluster, recompute: str, overlap_gradients: bool) -> dict[str, float]:
    """Seconds of a step by cause: m micro-batches at the pace of the slowest stage, the bubble, what follows them."""
    layout, device = x.layout, on.device
    axes = network.axes(layout, on)
    forward, backward = compute.layer_forward(x, device), compute.layer_backward(x, device)
    head = [compute.logits_forward(x, device), compute.logits_backward(x, device)]
    tp = network.tensor_parallel(x, axes["tp"])
    cp = network.context_parallel(x, axes["cp"])
    ep = network.expert_parallel(x, axes["ep"])
    again = {"none": 0.0, "selective": forward.attention, "full": forward.seconds + tp + ep}[recompute]
    exposed_cp = max(0.0, cp - forward.attention) + max(0.0, 2 * cp - backward.attention)

    layer = {
        "matmul": forward.matmul + backward.matmul,
        "attention": forward.attention + backward.attention,
        "elementwise": forward.elementwise + backward.elementwise,
        "recompute": again,
        "host": forward.host + backward.host,
        "tensor_parallel": 2 * tp,
        "context_parallel": exposed_cp,
        "expert_parallel": 2 * ep,
    }
    one_layer = sum(layer.values())
    logits = sum(part.seconds for part in head)
    stage, layers, logits_there = slowest_stage(x, one_layer, logits)
    step = {cause: x.m * layers * seconds for cause, seconds in layer.items()}
    step["logits"] = x.m * logits_there
    others = x.config.n_layer * one_layer + logits - (layers * one_layer + logits_there)
    step["bubble"] = bubble(layout, others)
    message = network.stage_message(x, axes["pp"])
    step["pipeline_messages"] = 2 * message * (x.m * layout.virtual_stages + layout.pp - 1)
    behind = layers * overlap_gradients
    step["data_parallel"] = data_parallel(
        x, axes["data"], x.params(stage), behind * (forward.seconds + tp), behind * (backward.seconds + tp)
    )
    step["optimizer"] = compute.optimizer(x, device, x.sharded_params(stage) if layout.zero else x.params(stage))
    return step


def slowest_stage(x: Sizes, layer: float, logits: float) -> tuple[int, int, float]:
    """The stage that sets the pace, its layers and its seconds of logits: the last, or one with more layers."""
    last = x.layout.pp - 1
    fullest = max(0, min(1, last), key=x.layers)
    if x.layers(last) * layer + logits >= x.layers(fullest) * layer:
        return last, x.layers(last), logits
    return fullest, x.layers(fullest), 0.0


def bubble(layout: Layout, others: float) -> float:
    """Seconds a rank stands idle while the pipeline fills and empties: one micro-batch's way through the other stages.

    Zero-bubble's first form fills all but a third with weight gradients (Qi et al. 2024, section 2), if forward, input
    gradient and weight gradient take alike.
    """
    share = 1 / 3 if layout.schedule == "zero_bubble" else 1 / layout.virtual_stages
    return share * others


def data_parallel(x: Sizes, data: network.Axis, params: float, forward: float, backward: float) -> float:
    """Exposed seconds of reducing gradients and gathering sharded weights, behind a micro-batch's forward or backward.

    ZeRO-3 gathers twice and scatters once in every micro-batch; the others reduce once, behind the last backward.
    """
    gradients, weights = data.gather(x.g * params), data.gather(x.w * params)
    if x.layout.zero == 3:
        return x.m * (max(0.0, weights - forward) + max(0.0, weights + gradients - backward))
    if x.layout.zero:
        return max(0.0, gradients - backward) + weights
    return max(0.0, 2 * gradients - backward)


def _recomputed_flops(x: Sizes, recompute: str) -> float:
    c, tokens = x.config, x.b * x.T * x.m * x.layout.dp
    core = 4 * tokens * c.n_layer * x.T * c.d_model
    weights = x.attention_weights + x.active_experts * x.mlp_weights
    return {"none": 0.0, "selective": core, "full": core + 2 * tokens * c.n_layer * weights}[recompute]
