"""What a plan is: ranked layouts with what they take and cost, and why the others fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TypeAlias, overload

from llmlab.arguments import real
from llmlab.cost.candidates import Workload
from llmlab.cost.comparing import Measurement, measurements
from llmlab.cost.prediction import Prediction
from llmlab.cost.risk import risk
from llmlab.cost.tables import html_table
from llmlab.hardware import Device
from llmlab.hardware.power import watts
from llmlab.parallel.layout import Layout

Record: TypeAlias = dict[str, float | str | None]
TIGHT = 0.95  # of the bytes that a plan may use: above, whether a layout runs is not certain


@dataclass(frozen=True)
class Prices:
    """What an hour of a GPU and a kWh cost, in one currency. None: nobody said, so nothing is made of it.

    `watts_per_gpu`: what a device draws; a plan takes the data sheet's where this is None: an upper bound, of the
    device alone. `pue`: what a site draws over what its devices draw.
    """

    per_gpu_hour: float | None = None
    per_kwh: float | None = None
    watts_per_gpu: float | None = None
    pue: float = 1.0

    def __post_init__(self) -> None:
        for name in ("per_gpu_hour", "per_kwh", "watts_per_gpu"):
            if (value := getattr(self, name)) is not None:
                real("Prices", name, value, least=0)
        real("Prices", "pue (a site draws at least what its devices draw)", self.pue, least=1)

    def on(self, device: Device) -> Prices:
        """The same with the data sheet's power, where nobody said what a device draws."""
        return self if self.watts_per_gpu is not None else replace(self, watts_per_gpu=watts(device))

    def energy_kwh(self, gpu_hours: float) -> float | None:
        return None if self.watts_per_gpu is None else gpu_hours * self.watts_per_gpu * self.pue / 1000

    def money(self, gpu_hours: float) -> float | None:
        """Rent and electricity, as far as there are prices for them."""
        energy = self.energy_kwh(gpu_hours)
        rent = None if self.per_gpu_hour is None else gpu_hours * self.per_gpu_hour
        electricity = None if self.per_kwh is None or energy is None else energy * self.per_kwh
        return rent if electricity is None else electricity + (rent or 0.0)


@dataclass(frozen=True)
class Planned:
    """One layout that fits. `gpu_hours`, `money` and `energy_kwh` are of the whole training, of `Plan.tokens`.

    `alike`: in a shortlist, how many others of the same tp, pp and ep fit and are within 2% of its seconds.
    `tied`: whether no prediction tells it from the plan's first, by what the two do not share.
    """

    layout: Layout
    recompute: str
    prediction: Prediction[float]
    gpu_hours: float
    money: float | None
    energy_kwh: float | None
    alike: int = 0
    tied: bool = False

    @property
    def risk(self) -> float:
        """The chance that it runs out of memory, by how far memory is usually from its prediction."""
        return float(risk(self.prediction.memory_bytes, self.prediction.capacity_bytes))

    def __repr__(self) -> str:
        return f"Planned({say_layout(self.layout)}, recompute {self.recompute}: {self.prediction!r})"


@dataclass(frozen=True)
class Refused:
    """Why the others fell: `rules` counts the illegal by the rule they break, `too_large` those that do not fit."""

    rules: dict[str, int]
    too_large: int
    least_bytes: float  # what the thriftiest of all legal layouts needs on its fullest GPU
    usable_bytes: float  # of a GPU

    @property
    def illegal(self) -> int:
        return sum(self.rules.values())

    def __str__(self) -> str:
        return (
            f"{self.illegal:,} illegal, {self.too_large:,} too large; the thriftiest needs {gib(self.least_bytes)} of "
            f"the {gib(self.usable_bytes)} that a plan may use"
        )


@dataclass(frozen=True)
class Plan(Sequence[Planned]):
    """Layouts that fit, fastest first: `plan[0]` is the best. `fitting` counts all of them, kept or not.

    `shortlist`: the best of each tp, pp and ep, which is what a plan prints: neighbours in `rows` are mostly the same.
    """

    workload: Workload
    tokens: float
    prices: Prices
    rows: tuple[Planned, ...]
    fitting: int
    refused: Refused
    shortlist: tuple[Planned, ...] = ()

    @overload
    def __getitem__(self, i: int) -> Planned: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Planned, ...]: ...
    def __getitem__(self, i: int | slice) -> Planned | tuple[Planned, ...]:
        return self.rows[i]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The ten best, near-duplicates left out, as a table: a notebook's cell may end in a plan."""
        rows = []
        for row in self.shortlist[:10]:
            p, (low, high) = row.prediction, row.prediction.interval
            layout = f"{say_layout(row.layout)}, recompute {row.recompute}"
            seconds = f"{p.seconds:.4g} ({low:.3g} to {high:.3g})"
            memory = f"{gib(p.memory_bytes)} ({row.risk:.0%})"
            rows.append([layout, seconds, "tied" * row.tied, f"{p.mfu:.1%}", memory, f"{row.gpu_hours:,.0f}"])
        title = f"{self.heading}: {self.fitting:,} layouts fit (modelled, not measured); {self.refused}."
        hours = f"GPU-hours of {self.tokens:.4g} tokens"
        header = ["layout", "s a step (90%)", "", "MFU", "memory of a GPU (chance of running out)", hours]
        return html_table(title, header, rows) + f"<p>{escape(self.advice)}</p>"

    @property
    def heading(self) -> str:
        """What is planned: how many of what, on what, and what is counted."""
        work = self.workload
        return f"{work.gpus:,} x {work.cluster.name}, {work.global_batch:,} x {work.seq:,} tokens a step"

    @property
    def advice(self) -> str:
        """How many of the layouts shown cannot be told from the first, and what to measure to tell them."""
        ties = sum(row.tied for row in self.shortlist[1:10])
        said = f"{ties} of the next {len(self.shortlist[1:10])} cannot be told from the first (tied)" if ties else ""
        return ". ".join(filter(None, [said, "; ".join(f"measure {each}" for each in self.measure)]))

    @property
    def measure(self) -> list[Measurement]:
        """The two measurements that would tell the first layout from its rivals best; fewer where there are none."""
        first = self.shortlist[:10]
        rivals = [row for row in first[1:] if row.tied] or first[1:]
        return measurements([row.prediction for row in (*first[:1], *rivals)]) if rivals else []

    def tight(self, row: Planned) -> bool:
        """Whether a layout fills nearly all that may be used, so that it may not run after all."""
        return row.prediction.memory_bytes > TIGHT * self.refused.usable_bytes

    def __str__(self) -> str:
        lines = [f"{self.heading}: {self.fitting:,} layouts fit (modelled, not measured); {self.refused}."]
        for rank, row in enumerate(self.shortlist[:10], 1):
            p = row.prediction
            also = "".join([
                ", tied" * (row.tied and rank > 1), ", tight" * self.tight(row),
                f"; {row.alike:,} alike" * (row.alike > 0),
            ])  # fmt: skip
            lines.append(
                f"{rank:3}  {p.seconds:8.3f} s  MFU {p.mfu:5.1%}  {gib(p.memory_bytes):>9}  "
                f"{say_layout(row.layout)}, recompute {row.recompute}{also}"
            )
        return "\n".join([*lines, *filter(None, [self.advice])])

    def records(self, every: bool = True) -> list[Record]:
        """Give the rows, or the shortlist, as flat records, for a table or a file."""
        rows = self.rows if every else self.shortlist
        return [{"rank": rank, **record(row)} for rank, row in enumerate(rows, 1)]


def record(row: Planned) -> Record:
    """Give a planned layout as one flat record, its units in its names."""
    p, x = row.prediction, row.layout
    low, high = p.interval
    return {
        "dp": x.dp, "tp": x.tp, "pp": x.pp, "cp": x.cp, "ep": x.ep, "zero": x.zero,
        "sequence_parallel": x.sequence_parallel, "schedule": x.schedule, "virtual_stages": x.virtual_stages,
        "microbatches": x.microbatches, "context": x.context, "recompute": row.recompute, "seconds": p.seconds,
        "seconds_low": float(low), "seconds_high": float(high), "mfu": p.mfu, "tflops_per_gpu": p.tflops_per_gpu,
        "memory_bytes": p.memory_bytes, "verdict": str(p.verdict), "gpu_hours": row.gpu_hours, "money": row.money,
        "energy_kwh": row.energy_kwh, "alike": row.alike, "tied": row.tied, "out_of_memory": row.risk,
    }  # fmt: skip


def say_layout(layout: Layout) -> str:
    """Write a layout on one line; sp is sequence parallelism, m the microbatches of a replica."""
    axes = [name for name in ("dp", "tp", "pp", "cp", "ep") if getattr(layout, name) > 1]
    said = [f"{axis}={getattr(layout, axis)}" for axis in axes] or ["one process"]
    if layout.zero:
        said.append(f"zero={layout.zero}")
    if layout.sequence_parallel:
        said.append("sp")
    if layout.cp > 1 and layout.context != "ring":
        said.append(layout.context)
    if layout.pp > 1:
        said.append(layout.schedule + (f" x {layout.virtual_stages}" if layout.virtual_stages > 1 else ""))
    return " ".join([*said, f"m={layout.microbatches}"])


def gib(nbytes: float) -> str:
    return f"{nbytes / 2**30:,.1f} GiB"
