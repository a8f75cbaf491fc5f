"""What a user can say of a run beside its layout: release, overlaps, the recipe of narrow products, partial habits.

The same fields serve `lab.predict`, `lab.plan` and the command line; what nobody says is the stack's own habit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from llmlab.arguments import choice, real, string, whole
from llmlab.cost.stack import RECIPES, Stack
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster

HIDDEN = 0.5  # of the traffic, where a stack's own habit is to hide none: ASSUMED


@dataclass(frozen=True)
class Options:
    """How a run differs from its stack's habits. None, "" and 0 leave a habit as it is.

    `release`: of the software, "26.04"; one that no row was measured with has its software's pace. `tp_overlap`,
    `ep_overlap`: whether tensor-parallel traffic (async TP) and the experts' all-to-all travel behind products.
    `fp8_recipe`: one of RECIPES. `shard_group`: ranks that ZeRO shards one copy of the model over (HSDP).
    `devices_per_slice`: devices that the fast network joins (TPU slices, NVLink domains). `recomputed_layers`: share of
    the layers that are recomputed. `capacity`: tokens an expert computes, over its fair share; what is above is
    dropped, 0 drops none. `matmul_tflops`: what large products reach on the user's machines, measured. `trained`: share
    of the weights that are; less than 1 (LoRA) is not modelled, and refused.
    """

    release: str = ""
    tp_overlap: bool | None = None
    ep_overlap: bool | None = None
    fp8_recipe: str = ""
    shard_group: int = 0
    devices_per_slice: int = 0
    recomputed_layers: float = 1.0
    capacity: float = 0.0
    matmul_tflops: float = 0.0
    trained: float = 1.0

    def __post_init__(self) -> None:
        string("Options", "release", self.release)
        for name in ("tp_overlap", "ep_overlap"):
            choice("Options", name, getattr(self, name), (None, True, False))
        choice("Options", "fp8_recipe", self.fp8_recipe, ("", *RECIPES))
        for name in ("shard_group", "devices_per_slice"):
            whole("Options", name, getattr(self, name), least=0)
        real("Options", "recomputed_layers", self.recomputed_layers, least=0, most=1)
        for name in ("capacity", "matmul_tflops"):
            real("Options", name, getattr(self, name), least=0)
        if real("Options", "trained", self.trained, above=0, most=1) < 1:
            raise ValueError(
                f"Options wants trained=1, got {self.trained:g}: frozen weights (LoRA) have no gradients and no "
                "optimizer, which is not modelled"
            )

    def stack(self, stack: Stack) -> Stack:
        """The stack with the habits that were said."""
        said: dict[str, Any] = {"release": self.release} if self.release else {}
        for name in ("tp_overlap", "ep_overlap"):
            if (overlap := getattr(self, name)) is not None:
                said[name] = (getattr(stack, name) or HIDDEN) if overlap else 0.0
        if self.fp8_recipe:
            stack = stack.with_recipe(self.fp8_recipe)
        return dataclasses.replace(stack, **said)

    def cluster(self, cluster: str | Cluster) -> Cluster:
        """The cluster with what was measured of it, and as many devices a node as a slice has."""
        return find_cluster(
            cluster,
            devices_per_node=self.devices_per_slice or None,
            matmul_tflops=self.matmul_tflops or None,
        )


USUAL = Options()
