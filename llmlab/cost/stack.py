"""How fast one software uses the hardware: a few constants per stack, each a factor on the published device.

No shared set of constants serves two software stacks on one GPU, so they are kept apart and shown. `ideal` is 1
everywhere, and so is `llmlab`, whose habits were counted; the others were fitted by `benchmarks/fit_stacks.py` to the
published tables named beside them (`data/published/stacks.csv`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from llmlab.arguments import choice, flag, instance, real, string, whole
from llmlab.cost.arrays import ByName
from llmlab.cost.memory import fullest_stage
from llmlab.cost.network import Wires
from llmlab.cost.own import OwnParallelize
from llmlab.cost.roofline import Roofline
from llmlab.cost.sizes import Sizes
from llmlab.cost.software import Library
from llmlab.hardware import Cluster, Device
from llmlab.hardware.facts import read_facts

CONSTANTS = ("matmul", "attention", "memory", "host", "intra", "inter", "congestion")


@dataclass(frozen=True)
class Stack:
    """Factors on a device's own rates, and what a software does with its gradients and scores.

    `matmul`, `attention`, `memory`: on the efficiency of these kernels; `intra`, `inter`: on the bandwidth of the
    links. `host`: on the time to launch a layer (eager PyTorch of 2021 to 2023 needs about 1 ms, thirteen times 15
    launches). `congestion`: collectives across n nodes have n^congestion less bandwidth. `activations`: on the bytes
    kept for the backward pass. `spread`: nine in ten measured steps lie within a factor e^spread of their prediction.
    """

    name: str = "ideal"
    matmul: float = 1.0
    attention: float = 1.0
    memory: float = 1.0
    host: float = 1.0
    intra: float = 1.0
    inter: float = 1.0
    congestion: float = 0.0
    activations: float = 1.0
    fused_attention: bool = True
    overlap_gradients: bool = True
    software: Library = Library()
    gradient_bytes: int = 0  # of one accumulated gradient; 0: as wide as an activation
    spread: float = 0.35
    fitted_to: str = ""

    def __post_init__(self) -> None:
        string("Stack", "name", self.name)
        for rate in ("matmul", "attention", "memory", "intra", "inter", "activations"):
            real("Stack", rate, getattr(self, rate), above=0)
        for number in ("host", "congestion", "spread"):
            real("Stack", number, getattr(self, number), least=0)
        for name in ("fused_attention", "overlap_gradients"):
            flag("Stack", name, getattr(self, name))
        instance("Stack", "software", self.software, Library, "see llmlab.cost.software")
        whole("Stack", "gradient_bytes", self.gradient_bytes, least=0)

    def roofline(self, device: Device, precision: str) -> Roofline:
        """FLOP/s and bytes/s that this software's kernels reach on a device."""
        core = "bf16" if precision == "fp8" else precision  # nobody's attention is fp8
        return Roofline(
            matmul=device.peak(precision) * device.matmul_efficiency * self.matmul,
            attention=device.peak(core) * device.attention_efficiency * self.attention,
            memory=device.memory_bytes_per_s * device.memory_efficiency * self.memory,
            ramp_s=device.ramp_s,
            launch_s=device.launch_s * self.host,
        )

    def wires(self, cluster: Cluster) -> Wires:
        """Seconds and bytes/s that this software's messages take and reach on a cluster's links."""
        near, far = cluster.intra, cluster.inter
        return Wires(
            per_node=cluster.devices_per_node,
            near_s=near.latency_s,
            far_s=far.latency_s,
            near=near.bytes_per_s * near.efficiency * self.intra,
            far=far.bytes_per_s * far.efficiency * self.inter,
            congestion=self.congestion,
            rings=self.software.rings,
        )

    def memory_needed(self, x: Sizes) -> ByName:
        """Bytes by category that a rank of the fullest stage holds at its peak."""
        return fullest_stage(x, lambda stage: self.software.memory(x, stage, self.fused_attention, self.activations))


# This library's own software on simulated ranks: every constant is 1, as on the clock; its kernels were counted.
OWN = Stack(name="llmlab", software=OwnParallelize(), spread=0.05)


def stacks() -> list[str]:
    """The names that `stack` knows."""
    return list(_table())


def stack(name_or_stack: str | Stack) -> Stack:
    """Look a stack up. Raises ValueError with the known names."""
    if isinstance(name_or_stack, Stack):
        return name_or_stack
    known = _table()
    return known[choice("stack", "name", name_or_stack, known)]


@cache
def _table() -> dict[str, Stack]:
    found = {"ideal": Stack(), OWN.name: OWN}
    for row in read_facts("published", "stacks.csv"):
        constants: dict[str, Any] = {constant: float(row[constant]) for constant in CONSTANTS}
        found[row["name"]] = Stack(
            name=row["name"],
            fused_attention=row["fused_attention"] == "yes",
            overlap_gradients=row["overlap_gradients"] == "yes",
            gradient_bytes=int(row["gradient_bytes"]),
            activations=float(row["activations"]),
            spread=float(row["spread"]),
            fitted_to=row["fitted_to"],
            **constants,
        )
    return found
