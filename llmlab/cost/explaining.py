"""Why a measured step differs from its prediction: for each cause, how far it alone would have to be off.

A cause is the likelier, the less its rate has to leave what software is seen to reach: the factor's logarithm, in
widths of the constant behind it (`cost.calibration.WIDTHS`). One number cannot tell causes apart, so each comes with
what to measure next.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log

from llmlab.arguments import instance, real
from llmlab.cost.calibration import WIDTHS
from llmlab.cost.prediction import Prediction

STAGES = 0.2  # how far stages of one pipeline differ, where nobody balanced them
# For each term: the constant of a stack that it follows, and what tells whether it is to blame.
LOOK = {
    "matmul": ("matmul", "TFLOP/s of one layer's products alone, the GPU's clock and power beside it"),
    "recompute": ("matmul", "a step without recomputing, on fewer sequences"),
    "attention": ("attention", "the kernel's name in torch.profiler: is it a fused one?"),
    "elementwise": ("memory", "norms and activations in torch.profiler: are they compiled into few kernels?"),
    "logits": ("memory", "the loss in torch.profiler: is it in fp32, in one piece?"),
    "optimizer": ("memory", "optimizer.step() alone: is it the fused one?"),
    "host": ("host", "gaps between kernels in torch.profiler, and the step with CUDA graphs"),
    "tensor_parallel": ("intra", "all_reduce_perf of nccl-tests within a node, at a layer's message size"),
    "context_parallel": ("inter", "sendrecv_perf of nccl-tests, at a block of keys' size"),
    "expert_parallel": ("inter", "alltoall_perf of nccl-tests; tokens of the fullest expert over the mean"),
    "data_parallel": ("inter", "all_reduce_perf of nccl-tests between nodes; does a profile show it behind backward?"),
    "pipeline_messages": ("inter", "sendrecv_perf of nccl-tests between the nodes of two stages"),
    "bubble": (None, "the forward of each stage alone: is the first or the last one longer?"),
}  # fmt: skip


@dataclass(frozen=True)
class Suspect:
    """A cause that alone would explain the difference if it took `factor` times as long; None: it cannot.

    `widths`: how far that is from what is usual; two is rare. `measure`: what would tell.
    """

    cause: str
    seconds: float
    factor: float | None
    widths: float
    measure: str


def explain(p: Prediction[float], measured_s: float) -> list[Suspect]:
    """Rank the causes of one predicted step by how little each has to be off to explain `measured_s` seconds."""
    instance("explain", "p", p, Prediction, "what lab.predict(...) gives for one layout")
    missing = real("explain", "measured_s", measured_s, above=0) - p.seconds
    found = [_suspect(cause, seconds, missing) for cause, seconds in p.breakdown.items() if seconds > 0]
    return sorted(found, key=lambda s: (s.widths, -s.seconds))


def unhidden(p: Prediction[float]) -> float:
    """Seconds a step would take longer if no traffic were hidden behind computing."""
    return float(sum(p.hidden.values()))


def _suspect(cause: str, seconds: float, missing: float) -> Suspect:
    constant, measure = LOOK[cause]
    factor = 1 + missing / seconds
    if factor <= 0:
        return Suspect(cause, seconds, None, inf, measure)
    width = STAGES if constant is None else WIDTHS[constant]
    return Suspect(cause, seconds, factor, abs(log(factor)) / width, measure)
