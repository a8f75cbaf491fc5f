"""Predict a training step without running it: seconds by cause, memory, utilisation, and how wrong that may be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from html import escape
from operator import add
from typing import Any, Generic, TypeVar, overload

import numpy as np

from llmlab.arguments import choice, choices, instance, instances, listing, real, wholes
from llmlab.cost.arrays import Counts, LayoutColumns, ModelLike, Numbers, Words, columns
from llmlab.cost.models import find_sizes
from llmlab.cost.options import USUAL, Options
from llmlab.cost.sizes import NUMBER_BYTES, Sizes
from llmlab.cost.stack import NARROW, Stack
from llmlab.cost.stack import stack as find_stack
from llmlab.cost.step import TERMS, step_seconds
from llmlab.cost.tables import html_table
from llmlab.hardware import Cluster
from llmlab.parallel.layout import Layout

RECOMPUTE = ("none", "selective", "full")
A_LAYOUT = "write lab.Layout(dp=2)"
CLUSTER = "h100"  # where nobody says which
MARGIN = 0.9  # of a device's memory; what an allocator loses is not modelled

N = TypeVar("N", float, Numbers)


@dataclass(frozen=True)
class Prediction(Generic[N]):
    """One step, of plain numbers; or many, a `Prediction[Numbers]`: then they are arrays, an entry for each layout.

    `breakdown`: seconds by cause, adding up to `seconds`; `hidden`: seconds of traffic behind computing, in none of
    them. `memory`: bytes by category on the fullest rank. `spread`: nine in ten measured steps of this stack lie within
    a factor e^spread. `mfu` counts the model's FLOPs, `hfu` the recomputed ones too, both as a share of peak.
    """

    breakdown: dict[str, N]
    hidden: dict[str, N]
    memory: dict[str, N]
    model_flops: N
    hardware_flops: N
    tokens: N
    ranks: N
    spread: float
    peak_flops_per_s: float
    capacity_bytes: int

    def __repr__(self) -> str:
        many = np.size(self.seconds)
        if many != 1:
            low, high = float(np.min(self.seconds)), float(np.max(self.seconds))
            return f"Prediction({many:,} layouts, modelled: {low:.4g} to {high:.4g} s a step)"
        p = self.at(0)
        return (
            f"Prediction({p.seconds:.4g} s a step, modelled; MFU {p.mfu:.1%}; {p.memory_bytes / 2**30:.1f} of "
            f"{p.capacity_bytes / 2**30:.1f} GiB: {p.verdict})"
        )

    def _repr_html_(self) -> str:
        if np.size(self.seconds) != 1:
            return escape(repr(self))
        p = self.at(0)
        time = [[cause, f"{s:.4g} s", f"{s / p.seconds:.1%}"] for cause, s in p.breakdown.items() if s > 0]
        memory = [[part, f"{n / 2**30:.1f} GiB", f"{n / p.memory_bytes:.1%}"] for part, n in p.memory.items() if n > 0]
        header = ["", "", "share"]
        return html_table(repr(self), header, time) + html_table("memory of the fullest GPU", header, memory)

    @property
    def seconds(self) -> N:
        return reduce(add, self.breakdown.values())

    @property
    def interval(self) -> tuple[N, N]:
        """Seconds between which nine in ten measured steps lie."""
        return self.seconds * np.exp(-self.spread), self.seconds * np.exp(self.spread)

    @property
    def uncertainty(self) -> float:
        """Half of the interval's width, as a share of `seconds`."""
        return float(np.sinh(self.spread))

    @property
    def memory_bytes(self) -> N:
        return reduce(add, self.memory.values())

    @property
    def fits(self) -> bool | np.ndarray:
        return self.memory_bytes <= self.capacity_bytes

    @property
    def verdict(self) -> Words:
        """`fits`, `marginal` or `does not fit`: above MARGIN of the device, fragmentation may decide."""
        roomy = self.memory_bytes <= MARGIN * self.capacity_bytes
        words = np.where(roomy, "fits", np.where(self.fits, "marginal", "does not fit"))
        return words if words.ndim else str(words)

    @property
    def tflops_per_gpu(self) -> N:
        """Model TFLOP/s of one device."""
        return self.model_flops / self.seconds / self.ranks / 1e12

    @property
    def mfu(self) -> N:
        return self.model_flops / self.seconds / self.ranks / self.peak_flops_per_s

    @property
    def hfu(self) -> N:
        return self.hardware_flops / self.seconds / self.ranks / self.peak_flops_per_s

    @property
    def tokens_per_s(self) -> N:
        return self.tokens / self.seconds

    def gpu_hours(self, tokens: float = 1e9) -> N:
        """Device-hours for so many tokens of training."""
        return real("gpu_hours", "tokens", tokens, above=0) / self.tokens_per_s * self.ranks / 3600

    def at(self, i: int) -> Prediction[float]:
        """The i-th of many, as one."""

        def pick(value: Numbers) -> float:
            return np.asarray(value).reshape(-1)[i if np.ndim(value) else 0].item()

        picked: dict[str, Any] = {}
        for name, value in ((field.name, getattr(self, field.name)) for field in fields(self)):
            many = isinstance(value, dict)
            picked[name] = {key: pick(each) for key, each in value.items()} if many else pick(value)
        return Prediction(**picked)


@overload
def predict(
    config: str | ModelLike, layout: Layout, cluster: str | Cluster = ..., *, global_batch: int, seq: int,
    precision: str = ..., recompute: str | Sequence[str] = ..., stack: str | Stack = ...,
    without: Collection[str] = ..., options: Options = ...,
) -> Prediction[float]: ...  # fmt: skip
@overload
def predict(
    config: str | ModelLike, layout: Sequence[Layout] | LayoutColumns, cluster: str | Cluster = ..., *,
    global_batch: int, seq: int, precision: str = ..., recompute: str | Sequence[str] = ..., stack: str | Stack = ...,
    without: Collection[str] = ..., options: Options = ...,
) -> Prediction[Numbers]: ...  # fmt: skip
def predict(
    config: str | ModelLike,
    layout: Layout | Sequence[Layout] | LayoutColumns,
    cluster: str | Cluster = CLUSTER,
    *,
    global_batch: int,
    seq: int,
    precision: str = "bf16",
    recompute: str | Sequence[str] = "none",
    stack: str | Stack = "typical",
    without: Collection[str] = (),
    options: Options = USUAL,
) -> Prediction[float] | Prediction[Numbers]:
    """Predict one training step with Adam. `global_batch`: sequences of `seq` tokens in the whole batch.

    `config`: sizes, or a published model's name (see `lab.find_config`). Many layouts (a list, or `cost.arrays.columns`
    of them, which are not checked) give arrays, in one pass. `stack`: whose software, see `lab.stacks()`. `without`:
    terms left out, of `cost.step.TERMS`. `options`: what the run does otherwise, see `lab.Options`. Raises ValueError
    for an illegal layout and for unknown names.
    """
    config = find_sizes(config)
    choice("predict", "precision", precision, NUMBER_BYTES)
    left_out = listing("predict", "without", without, "terms")
    wholes("predict", 1, global_batch=global_batch, seq=seq)
    one = isinstance(layout, Layout)
    if not isinstance(layout, LayoutColumns):
        layouts = [layout] if isinstance(layout, Layout) else instances("predict", "layout", layout, Layout, A_LAYOUT)
        if not layouts:
            raise ValueError(f"predict wants layout as a Layout, or one or more of them; got {layout!r}")
        for each in layouts:
            each.check(config, global_batch, seq)
        layout = columns(layouts)
    again = _recomputing(recompute, len(layout))
    w = NUMBER_BYTES[precision]
    said = instance("predict", "options", options, Options, "lab.Options(tp_overlap=True)")
    stack = said.stack(find_stack(stack))
    b = global_batch / (layout.dp * layout.microbatches)
    x = Sizes(
        config, layout, b, seq, w, stack.gradient_bytes or w, again, said.recomputed_layers, said.capacity or 1.0,
        said.shard_group, early_stop=stack.early_stop, by_cost=stack.stages_by_cost,
    )  # fmt: skip
    found = predict_sizes(x, said.cluster(cluster), stack, precision, left_out)
    return found.at(0) if one else found


def _recomputing(recompute: str | Sequence[str], layouts: int) -> Counts:
    """The number of one kind for all, or an array of a kind for each layout."""
    kinds = choices("predict", "recompute", [recompute] if isinstance(recompute, str) else recompute, RECOMPUTE)
    if len(kinds) not in (1, layouts):
        raise ValueError(f"predict wants recompute as one kind, or one for each of {layouts} layouts; got {kinds}")
    numbers = np.array([RECOMPUTE.index(kind) for kind in kinds])
    return numbers[0] if len(kinds) == 1 else numbers


def predict_sizes(
    x: Sizes, on: Cluster, stack: Stack, precision: str, without: Collection[str] = ()
) -> Prediction[Numbers]:
    """Predict what `Sizes` describe."""
    for term in without:
        choice("predict", "without", term, TERMS)
    spread, stack = stack.spread_on(on, precision), stack.on(on)
    breakdown, hidden = step_seconds(x, on, stack, precision, without)
    layout = x.layout
    ranks = layout.dp * layout.tp * layout.pp * layout.cp
    return Prediction(
        breakdown=breakdown,
        hidden=hidden,
        memory=stack.memory_needed(x),
        model_flops=x.model_flops,
        hardware_flops=x.model_flops + x.recomputed_flops,
        tokens=x.b * x.T * x.m * layout.dp,
        ranks=ranks,
        spread=spread,
        peak_flops_per_s=on.device.peak(NARROW.get(precision, precision)),
        capacity_bytes=on.device.memory_bytes,
    )
