"""Seconds of communication in closed form: the latency-bandwidth model, inside a node and across nodes.

Ranks are numbered with tp innermost, then cp, dp, and pp outermost; so tp stays inside a node and pp crosses it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmlab.cost.arrays import Counts, LayoutLike, Numbers
from llmlab.cost.sizes import Sizes

# A tree meets less congestion than a ring: its exponent over a ring's, where both were measured (AWS EFA, 4 to 64
# nodes, in data/published/collective_bandwidth.csv: 0.55 and 0.8).
TREE = 0.7


@dataclass(frozen=True)
class Wires:
    """A cluster's links as one stack uses them: seconds of latency and bytes/s, inside a node and between nodes."""

    per_node: int
    near_s: float
    far_s: float
    near: float
    far: float
    congestion: float
    rings: bool  # latency of every step of a ring; else of a tree


@dataclass(frozen=True)
class Axis:
    """A group of `size` ranks, `stride` apart."""

    size: Numbers
    stride: Counts
    wires: Wires

    @cached_property
    def local(self) -> Numbers:
        """Ranks of the group that share a node."""
        return np.clip(self.wires.per_node // self.stride, 1, self.size)

    @property
    def spans(self) -> Counts:
        """Whether it spans nodes."""
        return self.local < self.size

    def gather(self, nbytes: Numbers, messages: Numbers = 1) -> Numbers:
        """All-gather or reduce-scatter of `nbytes` in all, in so many messages: bytes by ring, at the slower pace.

        Across nodes, each rank of the group in a node sends its share through its own adapter.
        """
        wires, nodes = self.wires, self.size / self.local
        within = (self.local - 1) / self.local * nbytes / wires.near
        across = (nodes - 1) / nodes * nbytes / (wires.far * self.local) * nodes**wires.congestion
        return messages * self._latency(wires.rings) + np.maximum(within, across)

    def all_reduce(self, nbytes: Numbers) -> Numbers:
        """A reduce-scatter and an all-gather; or, where latency weighs more, everything up a tree and down again."""
        wires = self.wires
        crowded = (self.size / self.local) ** (TREE * wires.congestion)
        tree = np.where(self.size > self.local, nbytes / (wires.far * self.local) * crowded, 0.0)
        tree = self._latency(False) + np.maximum(np.where(self.local > 1, nbytes / wires.near, 0.0), tree)
        return 2 * np.minimum(self.gather(nbytes), tree)

    def _latency(self, rings: bool) -> Numbers:
        steps = (
            (self.local - 1, self.size / self.local - 1)
            if rings
            else (np.log2(self.local), np.log2(self.size / self.local))
        )
        return self.wires.near_s * steps[0] + self.wires.far_s * steps[1]

    def message(self, nbytes: Numbers) -> Numbers:
        """One message to the next rank along the axis; the link is the slowest one on the way round."""
        far = self.wires.far_s + nbytes / self.wires.far
        near = self.wires.near_s + nbytes / self.wires.near
        return np.where(self.size == 1, 0.0, np.where(self.local < self.size, far, near))

    def all_to_all(self, nbytes: Numbers, copies: Numbers = 1) -> Numbers:
        """Each rank has `nbytes`, of which it keeps its own part. `copies`: of each token; those for ranks of one node
        travel to it once (DeepSeek-V3's report, section 3.2.2)."""
        wires, nodes = self.wires, self.size / self.local
        nbytes, once = nbytes * 1.0, nodes * (1 - (1 - 1 / nodes) ** copies) / copies
        within = (self.local - 1) / self.size * nbytes / wires.near
        across = (self.size - self.local) / self.size * nbytes * once / wires.far
        start = np.where(self.local < self.size, wires.far_s, wires.near_s)
        latency = self._latency(True) if wires.rings else start
        return np.where(self.size == 1, 0.0, latency + np.maximum(within, across))


def axes(layout: LayoutLike, wires: Wires, sharers: Counts | None = None) -> dict[str, Axis]:
    """Where each axis of a layout lies on the cluster; "data" joins dp and cp, which share gradients.

    `sharers`: of these, how many ZeRO shards one copy over; "copies" are what there is of each shard.
    """
    tp, cp, dp = layout.tp, layout.cp, layout.dp
    shard = dp * cp if sharers is None else sharers
    return {
        "tp": Axis(tp, np.ones_like(tp), wires),
        "cp": Axis(cp, tp, wires),
        "ep": Axis(layout.ep, tp, wires),
        "data": Axis(dp * cp, tp, wires),
        "shard": Axis(shard, tp, wires),
        "copies": Axis(dp * cp / shard, tp * shard, wires),
        "experts": Axis(dp * cp / layout.ep, tp * layout.ep, wires),  # those that hold the same ones
        "pp": Axis(layout.pp, tp * cp * dp, wires),
    }


def hidden_values(x: Sizes, tp: Axis) -> Numbers:
    """The ranks' summands of the hidden values, added up: by an all-reduce, or a scatter here and a gather there."""
    nbytes = x.w * x.n * x.config.d_model
    return np.where(x.layout.sequence_parallel, 2 * tp.gather(nbytes), tp.all_reduce(nbytes))


def context_parallel(x: Sizes, cp: Axis) -> Numbers:
    """One step of a layer's ring: keys and values go on to the next rank."""
    return cp.message(2 * x.w * x.n * x.kv_width / x.layout.tp)


def expert_parallel(x: Sizes, ep: Axis, share: Numbers, once_a_node: bool = False) -> Numbers:
    """One layer, one direction: a share of the tokens to their experts and back."""
    copies = np.maximum(x.active_experts, 1) if once_a_node else 1
    return 2 * ep.all_to_all(x.w * x.n * share * x.active_experts * x.config.d_model, copies)
