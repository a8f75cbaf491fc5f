"""Seconds of communication in closed form: the latency-bandwidth model, inside a node and across nodes.

Ranks are numbered with tp innermost, then cp, dp, and pp outermost; so tp stays inside a node and pp crosses it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from llmlab.cost.sizes import Sizes
from llmlab.hardware import Cluster
from llmlab.parallel.layout import Layout


@dataclass(frozen=True)
class Axis:
    """A group of `size` ranks, `stride` apart: `local` of them share each node."""

    size: int
    stride: int
    cluster: Cluster

    @property
    def local(self) -> int:
        return max(1, min(self.size, self.cluster.devices_per_node // self.stride))

    @property
    def crosses(self) -> bool:
        return self.local < self.size

    def gather(self, nbytes: float) -> float:
        """All-gather or reduce-scatter of `nbytes` in all: latency by tree, bytes by ring, at the slower leg's pace.

        Across nodes, each rank of the group in a node sends its share through its own adapter.
        """
        if self.size == 1:
            return 0.0
        near, far = self.cluster.intra, self.cluster.inter
        within = (self.local - 1) / self.local * nbytes / (near.bytes_per_s * near.efficiency)
        latency = near.latency_s * log2(self.local)
        if not self.crosses:
            return latency + within
        nodes = self.size / self.local
        across = (nodes - 1) / nodes * nbytes / (far.bytes_per_s * far.efficiency * self.local)
        return latency + far.latency_s * log2(nodes) + max(within, across)

    def all_reduce(self, nbytes: float) -> float:
        """A reduce-scatter and an all-gather."""
        return 2 * self.gather(nbytes)

    def message(self, nbytes: float) -> float:
        """One message to the next rank along the axis; the link is the slowest one on the way round."""
        link = self.cluster.inter if self.crosses else self.cluster.intra
        return link.seconds(nbytes) if self.size > 1 else 0.0

    def all_to_all(self, nbytes: float) -> float:
        """Each rank has `nbytes`, of which it keeps its own part."""
        if self.size == 1:
            return 0.0
        near, far = self.cluster.intra, self.cluster.inter
        within = (self.local - 1) / self.size * nbytes / (near.bytes_per_s * near.efficiency)
        across = (self.size - self.local) / self.size * nbytes / (far.bytes_per_s * far.efficiency)
        return (far if self.crosses else near).latency_s + max(within, across)


def axes(layout: Layout, on: Cluster) -> dict[str, Axis]:
    """Where each axis of a layout lies on the cluster; "data" joins dp and cp, which share gradients."""
    tp, cp, dp, pp, ep = layout.tp, layout.cp, layout.dp, layout.pp, layout.ep
    return {
        "tp": Axis(tp, 1, on),
        "cp": Axis(cp, tp, on),
        "ep": Axis(ep, tp, on),
        "data": Axis(dp * cp, tp, on),
        "pp": Axis(pp, tp * cp * dp, on),
    }


def tensor_parallel(x: Sizes, tp: Axis) -> float:
    """One layer, one direction: two all-reduces of the hidden values (or as many gather and scatter pairs)."""
    return 2 * tp.all_reduce(x.w * x.n * x.config.d_model)


def context_parallel(x: Sizes, cp: Axis) -> float:
    """One layer forward: the keys and values of every other rank pass by, one ring step at a time."""
    return (cp.size - 1) * cp.message(2 * x.w * x.n * x.kv_width / x.layout.tp)


def expert_parallel(x: Sizes, ep: Axis) -> float:
    """One layer, one direction: tokens to their experts and back."""
    if ep.size == 1:
        return 0.0
    tokens = x.n / (x.layout.tp if x.layout.sequence_parallel else 1)
    return 2 * ep.all_to_all(x.w * tokens * x.config.n_expert_active * x.config.d_model)


def stage_message(x: Sizes, pp: Axis) -> float:
    """Hidden values to the next stage; each tensor-parallel rank sends its part, and the part is gathered there."""
    return pp.message(x.w * x.n * x.config.d_model / x.layout.tp)
