"""Predict a training step without running it: seconds by cause, memory, utilisation, and how wrong that may be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np

from llmlab.cost.memory import memory
from llmlab.cost.sizes import NUMBER_BYTES, Sizes, columns
from llmlab.cost.stack import Stack
from llmlab.cost.stack import stack as find_stack
from llmlab.cost.step import TERMS, step_seconds
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster
from llmlab.parallel.layout import Layout

RECOMPUTE = ("none", "selective", "full")
MARGIN = 0.9  # of a device's memory; what an allocator loses is not modelled


@dataclass(frozen=True)
class Prediction:
    """One step, or many: then every number is an array with an entry for each layout.

    `breakdown`: seconds by cause, adding up to `seconds`; `hidden`: seconds of traffic behind computing, in none of
    them. `memory`: bytes by category on the fullest rank. `spread`: nine in ten measured steps of this stack lie within
    a factor e^spread. `mfu` counts the model's FLOPs, `hfu` the recomputed ones too, both as a share of peak.
    """

    breakdown: dict[str, Any]
    hidden: dict[str, Any]
    memory: dict[str, Any]
    model_flops: Any
    hardware_flops: Any
    tokens: Any
    ranks: Any
    spread: float
    peak_flops_per_s: float
    capacity_bytes: int

    @property
    def seconds(self) -> Any:
        return sum(self.breakdown.values())

    @property
    def interval(self) -> tuple[Any, Any]:
        """Seconds between which nine in ten measured steps lie."""
        return self.seconds * np.exp(-self.spread), self.seconds * np.exp(self.spread)

    @property
    def uncertainty(self) -> float:
        """Half of the interval's width, as a share of `seconds`."""
        return float(np.sinh(self.spread))

    @property
    def memory_bytes(self) -> Any:
        return sum(self.memory.values())

    @property
    def fits(self) -> Any:
        return self.memory_bytes <= self.capacity_bytes

    @property
    def verdict(self) -> Any:
        """`fits`, `marginal` or `does not fit`: above MARGIN of the device, fragmentation may decide."""
        roomy = self.memory_bytes <= MARGIN * self.capacity_bytes
        words = np.where(roomy, "fits", np.where(self.fits, "marginal", "does not fit"))
        return words if words.ndim else str(words)

    @property
    def tflops_per_gpu(self) -> Any:
        """Model TFLOP/s of one device."""
        return self.model_flops / self.seconds / self.ranks / 1e12

    @property
    def mfu(self) -> Any:
        return self.model_flops / self.seconds / self.ranks / self.peak_flops_per_s

    @property
    def hfu(self) -> Any:
        return self.hardware_flops / self.seconds / self.ranks / self.peak_flops_per_s

    @property
    def tokens_per_s(self) -> Any:
        return self.tokens / self.seconds

    def gpu_hours(self, tokens: float = 1e9) -> Any:
        """Device-hours for so many tokens of training."""
        return tokens / self.tokens_per_s * self.ranks / 3600

    def at(self, i: int) -> Prediction:
        """The i-th of many, as one."""

        def pick(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: pick(each) for key, each in value.items()}
            return np.asarray(value).reshape(-1)[i if np.ndim(value) else 0].item() if np.size(value) else value

        return Prediction(**{field.name: pick(getattr(self, field.name)) for field in fields(self)})


def predict(
    config: Any,
    layout: Layout | Sequence[Layout] | SimpleNamespace,
    cluster: str | Cluster = "a100",
    *,
    global_batch: int,
    seq: int,
    precision: str = "bf16",
    recompute: str | Sequence[str] = "none",
    stack: str | Stack = "typical",
    without: Collection[str] = (),
) -> Prediction:
    """Predict one training step with Adam. `global_batch`: sequences of `seq` tokens in the whole batch.

    Many layouts (a list, or `cost.sizes.columns` of them, which are not checked) give arrays, in one pass. `stack`:
    whose software, see `lab.stacks()`. `without`: terms left out, of `cost.step.TERMS`. Raises ValueError for an
    illegal layout and for unknown names.
    """
    _check_names("precision", [precision], NUMBER_BYTES)
    _check_names("without", without, TERMS)
    one = isinstance(layout, Layout)
    if not isinstance(layout, SimpleNamespace):
        layouts = [layout] if isinstance(layout, Layout) else list(layout)
        for each in layouts:
            each.check(config, global_batch, seq)
        layout = columns(layouts)
    kinds = [recompute] if isinstance(recompute, str) else list(recompute)
    _check_names("recompute", set(kinds), RECOMPUTE)
    again = np.array([RECOMPUTE.index(kind) for kind in kinds])
    again = again[0] if len(kinds) == 1 else again
    w = NUMBER_BYTES[precision]
    stack = find_stack(stack)
    b = global_batch / (layout.dp * layout.microbatches)
    x = Sizes(config, layout, b, seq, w, stack.gradient_bytes or w, again)
    found = predict_sizes(x, find_cluster(cluster), stack, precision, without)
    return found.at(0) if one else found


def predict_sizes(x: Sizes, on: Cluster, stack: Stack, precision: str, without: Collection[str] = ()) -> Prediction:
    """Predict what `Sizes` describe."""
    breakdown, hidden = step_seconds(x, on, stack, precision, without)
    layout = x.layout
    ranks = layout.dp * layout.tp * layout.pp * layout.cp
    return Prediction(
        breakdown=breakdown,
        hidden=hidden,
        memory=memory(x, stack),
        model_flops=x.model_flops,
        hardware_flops=x.model_flops + x.recomputed_flops,
        tokens=x.b * x.T * x.m * layout.dp,
        ranks=ranks,
        spread=stack.spread,
        peak_flops_per_s=on.device.peak(precision),
        capacity_bytes=on.device.memory_bytes,
    )


def _check_names(what: str, got: Collection[str], known: Collection[str]) -> None:
    for name in got:
        if name not in known:
            raise ValueError(f"{what} wants one of {', '.join(known)}; got {name!r}")
