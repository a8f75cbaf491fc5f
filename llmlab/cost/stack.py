"""How fast one software uses the hardware: a few constants per stack, each a factor on the published device.

No shared set of constants serves two software stacks on one GPU, so they are kept apart and shown. `ideal` is 1
everywhere, and so is `llmlab`, whose habits were counted; the others were fitted by `benchmarks/fit_stacks.py` to the
published tables named beside them (`data/published/stacks.csv`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from llmlab.arguments import choice, flag, instance, real, string, whole
from llmlab.cost.arrays import ByName
from llmlab.cost.memory import fullest_stage
from llmlab.cost.network import Wires
from llmlab.cost.own import OwnParallelize
from llmlab.cost.ownership import START, Owners, fitted
from llmlab.cost.roofline import Roofline
from llmlab.cost.sizes import Sizes
from llmlab.cost.software import FUSED, LIBRARY, Library
from llmlab.hardware import Cluster, Device
from llmlab.hardware.facts import read_facts

CONSTANTS = ("matmul", "attention", "memory", "host", "intra", "inter", "congestion")
NARROW = {"nvfp4": "fp4", "mxfp8": "fp8", "fp8": "fp8"}  # what products are computed in; all else is in 16 bits
# For each recipe of 8 bits: bytes moved for each number that goes into a product, and the products' share of the usual
# rate. Scales of the step before (delayed) and of blocks (mxfp8) want one reading; of this tensor, or its rows, a
# second for the largest. Products scaled by row have kernels of their own, about a quarter slower: ASSUMED.
RECIPES = {"delayed": (4.0, 1.0), "mxfp8": (4.0, 1.0), "tensorwise": (6.0, 1.0), "rowwise": (6.0, 0.75)}
# NVIDIA's NVFP4 recipe keeps about a sixth of the linear layers in bf16, at a quarter of the rate: 1 / (5/6 + 4/6).
FP4 = 0.67
OVERLAP = 0.7  # of a pass, gradients and gathered weights travel behind it, where nothing else is known


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
    fp8: float = 1.0
    overlap: float = 1.0
    tp_overlap: float = 0.0
    ep_overlap: float = 0.0
    cast: float = 4.0
    activations: float = 1.0
    fused_attention: bool = True
    overlap_gradients: bool = True
    software: Library = LIBRARY
    gradient_bytes: int = 0  # of one accumulated gradient; 0: as wide as an activation
    early_stop: bool = False  # recomputing ends with the last value that backward needs
    stages_by_cost: bool = False  # a pipeline's stages are filled by cost, the output table's among it
    spread: float = 0.35
    fitted_to: str = ""
    release: str = ""
    owners: Owners | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        string("Stack", "name", self.name)
        for name in ("release", "fitted_to"):
            string("Stack", name, getattr(self, name))
        for rate in ("matmul", "attention", "memory", "intra", "inter", "activations", "fp8"):
            real("Stack", rate, getattr(self, rate), above=0)
        for number in ("host", "congestion", "spread", "cast"):
            real("Stack", number, getattr(self, number), least=0)
        for share in ("overlap", "tp_overlap", "ep_overlap"):
            real("Stack", share, getattr(self, share), least=0, most=1)
        for name in ("fused_attention", "overlap_gradients", "early_stop", "stages_by_cost"):
            flag("Stack", name, getattr(self, name))
        instance("Stack", "software", self.software, Library, "see llmlab.cost.software")
        whole("Stack", "gradient_bytes", self.gradient_bytes, least=0)

    def on(self, cluster: Cluster) -> Stack:
        """This software on a cluster: with the constants that the chip's generation and the network have of their own.

        A stack of one's own, and one that was calibrated, has its cluster's in it already.
        """
        if self.owners is None:
            return self
        places = {"generation": cluster.device.generation, "network": cluster.network}
        if self.release:
            places["release"] = f"{self.name} {self.release}"
        joined: dict[str, Any] = {
            name: getattr(self, name) * self.owners.factor(name, places) for name in (*CONSTANTS, "fp8")
        }
        return dataclasses.replace(self, owners=None, **joined)

    def with_recipe(self, name: str) -> Stack:
        """The same with narrow products by one of RECIPES."""
        cast, share = RECIPES[choice("with_recipe", "name", name, RECIPES)]
        return dataclasses.replace(self, cast=cast, fp8=self.fp8 * share)

    def spread_on(self, cluster: Cluster, precision: str) -> float:
        """Half of the 90% interval of a prediction's logarithm: `spread`, and where constants have owners, what whole
        tables are off by that no fit has seen."""
        if self.owners is None:
            return self.spread
        return self.owners.spread(self.spread, self.name, cluster.device.generation, precision)

    def roofline(self, device: Device, precision: str) -> Roofline:
        """FLOP/s and bytes/s that this software's kernels reach on a device."""
        narrow = NARROW.get(precision, "")
        share = (self.fp8 if narrow else 1.0) * (FP4 if narrow == "fp4" else 1.0)
        return Roofline(
            matmul=device.peak(narrow or precision) * device.matmul_efficiency * self.matmul * share,
            attention=device.peak("bf16" if narrow else precision) * device.attention_efficiency * self.attention,
            memory=device.memory_bytes_per_s * device.memory_efficiency * self.memory,
            ramp_s=device.ramp_s,
            launch_s=device.launch_s * self.host,
            cast=self.cast if narrow else 0.0,
        )

    def wires(self, cluster: Cluster) -> Wires:
        """Seconds and bytes/s that this software's messages take and reach on a cluster's links."""
        near, far = cluster.intra, cluster.inter
        return Wires(
            per_node=cluster.devices_per_node,
            near_s=near.latency_s,
            far_s=far.latency_s,
            near=near.bytes_per_s * min(1.0, near.efficiency * self.intra),  # nothing passes the line's rate
            far=far.bytes_per_s * min(1.0, far.efficiency * self.inter),
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
        found[row["name"]] = dataclasses.replace(
            owned(row["name"], fitted()),
            tp_overlap=float(row["tp_overlap"]),
            ep_overlap=float(row["ep_overlap"]),
            fused_attention=row["fused_attention"] == "yes",
            overlap_gradients=row["overlap_gradients"] == "yes",
            software=FUSED if row["fused_accumulation"] == "yes" else LIBRARY,
            gradient_bytes=int(row["gradient_bytes"]),
            early_stop=row["early_stop"] == "yes",
            stages_by_cost=row["stages"] == "by cost",
            activations=float(row["activations"]),
            spread=float(row["spread"]),
            fitted_to=row["fitted_to"],
        )
    return found


def owned(name: str, owners: Owners) -> Stack:
    """A software's stack of constants that have owners: what is everyone's and its own; a cluster adds the rest."""
    mine = {"everyone": "", "software": name}
    constants: dict[str, Any] = {
        constant: START.get(constant, 1.0) * owners.factor(constant, mine) for constant in (*CONSTANTS, "fp8")
    }
    hidden = min(1.0, OVERLAP * owners.factor("overlap", mine))
    return Stack(name=name, owners=owners, overlap=hidden, **constants)
