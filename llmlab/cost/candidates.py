"""Every legal layout of a step on so many GPUs: what `Layout.check` accepts, and why it refuses the others.

A choice that changes nothing is made once: sequence parallelism without tensor parallelism, schedules without a
pipeline, ZeRO on a single replica, ways of attending without context parallelism.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, overload

import numpy as np

from llmlab.arguments import choices, instance, listing, whole, wholes
from llmlab.cost.arrays import LAYOUT_FIELDS, LayoutColumns, ModelLike, Numbers, columns
from llmlab.cost.options import USUAL, Options
from llmlab.cost.prediction import Prediction, predict
from llmlab.cost.stack import Stack
from llmlab.hardware import Cluster
from llmlab.parallel.layout import CONTEXTS, Layout
from llmlab.parallel.schedules import NAMES, PRICED, schedule_name

KNOWN: dict[str, Sequence[Any]] = {
    "zero": (0, 1, 2, 3), "contexts": CONTEXTS, "sequence_parallel": (False, True),
}  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """One training step to be laid out."""

    config: ModelLike
    cluster: Cluster
    gpus: int
    global_batch: int
    seq: int
    precision: str = "bf16"
    stack: str | Stack = "typical"
    options: Options = USUAL

    def __post_init__(self) -> None:
        wholes("plan", 1, gpus=self.gpus, global_batch=self.global_batch, seq=self.seq)
        instance("plan", "options", self.options, Options, "lab.Options(tp_overlap=True)")

    @overload
    def predict(self, layout: Layout, recompute: str | Sequence[str]) -> Prediction[float]: ...
    @overload
    def predict(self, layout: LayoutColumns, recompute: str | Sequence[str]) -> Prediction[Numbers]: ...
    def predict(
        self, layout: Layout | LayoutColumns, recompute: str | Sequence[str]
    ) -> Prediction[float] | Prediction[Numbers]:
        """Predict the step of one layout, or of columns of them."""
        return predict(
            self.config, layout, self.cluster, global_batch=self.global_batch, seq=self.seq,
            precision=self.precision, recompute=recompute, stack=self.stack, options=self.options,
        )  # fmt: skip

    def illegal(self, layout: Layout) -> str:
        """Say which rule a layout breaks; nothing if it is legal."""
        try:
            layout.check(self.config, self.global_batch, self.seq)
        except ValueError as error:
            return str(error).partition("; legal:")[0]
        return ""


@dataclass(frozen=True)
class Choices:
    """What a plan may choose from, beside the degrees. `virtual_stages` None: all that give ranks equal chunks."""

    zero: Sequence[int] = (0, 1, 2, 3)
    schedules: Sequence[str] = ("1f1b", "interleaved", "zb_h1")
    virtual_stages: Sequence[int] | None = None
    contexts: Sequence[str] = ("ring",)
    sequence_parallel: Sequence[bool] = (False, True)
    microbatch_sizes: Sequence[int] | None = None  # sequences; None: every power of two

    def __post_init__(self) -> None:
        for name, known in KNOWN.items():
            object.__setattr__(self, name, choices("plan", name, getattr(self, name), known))
        written = listing("plan", "schedules", self.schedules, "names")
        names = [schedule_name("plan", "schedules", each, priced=True) for each in written]
        object.__setattr__(self, "schedules", choices("plan", "schedules", names, NAMES + PRICED))
        for name in ("virtual_stages", "microbatch_sizes"):
            if (counts := getattr(self, name)) is not None:
                found = [whole("plan", name, n, least=1) for n in listing("plan", name, counts, "counts, or None")]
                object.__setattr__(self, name, found)


def candidates(workload: Workload, choices: Choices) -> tuple[LayoutColumns, Counter[str]]:
    """Give the legal layouts as columns (see `cost.arrays.columns`), and how many were refused by rule.

    A split of the GPUs (dp, tp, pp, cp, ep) that no choice can mend is refused once, not once for each choice. ZeRO is
    legal with every layout, so it multiplies the columns at the end.
    """
    legal, refused = [], Counter[str]()
    for split in splits(workload):
        why = workload.illegal(split)
        if why:
            refused[why] += 1
            continue
        for layout in _ways(split, workload, choices):
            why = workload.illegal(layout)
            if why:
                refused[why] += 1
            else:
                legal.append(layout)
    return _with_zero(columns(legal), choices.zero), refused


def splits(workload: Workload) -> Iterator[Layout]:
    """Split GPUs over dp x tp x pp x cp in every way, with every ep that folds into dp x cp."""
    experts = getattr(workload.config, "n_expert", 0)
    for tp in divisors(workload.gpus):
        for pp in divisors(workload.gpus // tp):
            for cp in divisors(workload.gpus // (tp * pp)):
                dp = workload.gpus // (tp * pp * cp)
                for ep in divisors(dp * cp) if experts else [1]:
                    yield Layout(dp=dp, tp=tp, pp=pp, cp=cp, ep=ep)


def divisors(n: int) -> list[int]:
    """List the divisors of n, from 1."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def _ways(split: Layout, workload: Workload, choices: Choices) -> Iterator[Layout]:
    """Vary what the degrees leave open, all but ZeRO."""
    sequence_parallel = choices.sequence_parallel if split.tp > 1 else [False]
    contexts = choices.contexts if split.cp > 1 else ["ring"]
    schedules = list(_schedules(split.pp, int(workload.config.n_layer), choices))
    counts = _microbatches(workload.global_batch // split.dp, choices)
    for sp, context, (schedule, v), m in product(sequence_parallel, contexts, schedules, counts):
        yield replace(split, sequence_parallel=sp, context=context, schedule=schedule, virtual_stages=v, microbatches=m)


def _schedules(pp: int, n_layer: int, choices: Choices) -> Iterator[tuple[str, int]]:
    if pp == 1:
        yield "1f1b", 1
        return
    for schedule in choices.schedules:
        if schedule != "interleaved":
            yield schedule, 1
        elif choices.virtual_stages is not None:
            yield from ((schedule, v) for v in choices.virtual_stages)
        elif n_layer % pp == 0:
            yield from ((schedule, v) for v in divisors(n_layer // pp)[1:])


def _microbatches(per_replica: int, choices: Choices) -> list[int]:
    """How many micro-batches a replica's sequences make, from the fewest."""
    sizes = choices.microbatch_sizes or [2**k for k in range(per_replica.bit_length())]
    return [per_replica // size for size in sorted(sizes, reverse=True) if per_replica % size == 0]


def _with_zero(found: LayoutColumns, zero: Sequence[int]) -> LayoutColumns:
    """Repeat the columns for each stage of ZeRO; a single replica has nothing to shard and takes the first."""
    rows = len(found)
    repeated = {name: np.tile(getattr(found, name), len(zero)) for name in LAYOUT_FIELDS}
    repeated["zero"] = np.repeat(np.asarray(zero, dtype=int), rows)
    alone = repeated["dp"] * repeated["cp"] == 1
    keep = ~alone | (np.arange(rows * len(zero)) < rows)
    return LayoutColumns(**repeated).take(keep)
