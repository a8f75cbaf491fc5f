"""How commands print: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlab.commands.asking import UNITS

if TYPE_CHECKING:  # torch takes two seconds to import: `--help` does without
    from rich.table import Table

    from llmlab.cost.plans import Planned
    from llmlab.cost.prediction import Prediction
    from llmlab.cost.sources import Source

MODELLED = "Modelled, not measured"
LEGEND = (
    "sp: sequence parallel; m: microbatches of a replica; (90%): where nine in ten measured steps would lie; (OOM): "
    "the chance of running out of memory."
)
WIDTH = 165  # of a table that no terminal shows


def title(asked: argparse.Namespace, gpus: int) -> str:
    step = f"{asked.global_batch:,} x {asked.seq:,} tokens a step, {asked.precision}"
    return f"{asked.model} on {gpus:,} x {asked.device}: {step}; GPU-hours are of {say_count(asked.tokens)} tokens"


def say_count(n: float) -> str:
    """Say a large number in the field's units: `15T`."""
    unit = next((name for name, size in reversed(UNITS.items()) if n >= size), "")
    return f"{n / UNITS.get(unit, 1):.4g}{unit}"


def ranking(title: str, rows: Sequence[Planned], tight: Sequence[bool] = (), alike: bool = False) -> Table:
    from llmlab.cost.plans import gib, say_layout

    header = ["", "layout", "recompute", "s a step (90%)", "MFU", "TFLOP/s", "memory (OOM)", "GPU-hours"]
    costs = [cost_columns(row) for row in rows]
    table = make_table(title, [*header, *costs[0], *["alike"] * alike], left=(1, 2))
    for place, (row, cost) in enumerate(zip(rows, costs, strict=True), 1):
        p = row.prediction
        low, high = p.interval
        held = "tight " * (place <= len(tight) and tight[place - 1]) + f"{gib(p.memory_bytes)} ({row.risk:.0%})"
        numbered = f"{place}{' =' * (row.tied and place > 1)}"
        table.add_row(
            numbered, say_layout(row.layout), row.recompute, f"{p.seconds:.4g} ({low:.3g} to {high:.3g})",
            f"{p.mfu:.1%}", f"{p.tflops_per_gpu:.0f}", held, f"{row.gpu_hours:,.0f}", *cost.values(),
            *[f"{row.alike:,}"] * alike,
        )  # fmt: skip
    return table


def cost_columns(row: Planned) -> dict[str, str]:
    """What is known of the cost: nothing is made up where no price was said."""
    known = {"cost": row.money, "MWh": None if row.energy_kwh is None else row.energy_kwh / 1000}
    return {name: _amount(value) for name, value in known.items() if value is not None}


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def sources(asked: argparse.Namespace) -> dict[str, Source]:
    """Where each term's constant is from, for the software and the cluster that were asked for."""
    from llmlab.commands.asking import options
    from llmlab.cost.sources import provenance
    from llmlab.cost.stack import stack

    said = options(asked)
    return {source.term: source for source in provenance(said.stack(stack(asked.stack)), said.cluster(asked.device))}


def breakdown(title: str, row: Planned, sources: Mapping[str, Source]) -> Table:
    """Seconds by cause and memory by category, side by side, the largest first; traffic with what of it is hidden.

    Each cause with its constant: a factor on what is published of the device or the link, how far it may be off, and
    whether it was MEASURED alone, FITTED to whole steps, or ASSUMED.
    """
    from llmlab.cost.plans import gib

    p, hidden = row.prediction, row.prediction.hidden
    table = make_table(
        title, ["cause", "seconds", "of the step", "hidden", "constant", "found", "memory of a GPU", ""], (0, 4, 5, 6)
    )
    causes = [cause for cause, seconds in p.breakdown.items() if seconds > 0 or hidden.get(cause, 0) > 0]
    causes.sort(key=lambda cause: -p.breakdown[cause])
    held = sorted((item for item in p.memory.items() if item[1] > 0), key=lambda item: -item[1])
    for i in range(max(len(causes), len(held))):
        time = [""] * 6
        if i < len(causes):
            seconds, behind = p.breakdown[causes[i]], hidden.get(causes[i], 0)
            shown = [f"{seconds:.4g}", f"{seconds / p.seconds:.1%}", f"{behind:.4g}" if behind > 0 else ""]
            time = [causes[i], *shown, *constant(sources.get(causes[i]))]
        table.add_row(*time, *([held[i][0], gib(held[i][1])] if i < len(held) else ["", ""]))
    return table


def constant(source: Source | None) -> tuple[str, str]:
    """Say a term's constant with its uncertainty, and how it was found; a bubble has none: it is counted."""
    if source is None:
        return "balance of stages", "COUNTED"
    value = f"{source.constant} {source.value:.3g} (x or / {source.uncertainty:.2f})"
    return value, f"{source.status}: {source.owners}"


def suspects(p: Prediction[float], measured_s: float) -> Table:
    """What would alone explain a measured step, the least surprising first, and what to measure to know."""
    from llmlab.cost.explaining import explain, unhidden

    suspects = explain(p, measured_s)
    low, high = p.interval
    usual = "within" if low <= measured_s <= high else "outside"
    title = (
        f"Measured {measured_s:.4g} s: {measured_s / p.seconds:.2f} times the prediction, {usual} its 90%; MFU "
        f"{p.mfu * p.seconds / measured_s:.1%}. Without any overlap predicted: {p.seconds + unhidden(p):.4g} s.\n"
        "Each cause alone would explain it, if it took so many times as long; the least surprising first."
    )
    table = make_table(title, ["cause", "predicted", "times as long", "measure next"], left=(0, 3))
    for suspect in suspects[:6]:
        factor = "cannot" if suspect.factor is None else f"{suspect.factor:.2f}"
        table.add_row(suspect.cause, f"{suspect.seconds:.4g} s", factor, suspect.measure)
    return table


def cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)


def make_table(title: str, header: Sequence[str], left: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i in left else "right")
    return table


def print_parts(*parts: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for part in parts:
        console.print(part)


def machine_readable(asked: argparse.Namespace, records: list[dict[str, Any]]) -> bool:
    """Print the records as JSON or CSV, if that was asked for."""
    if asked.json:
        print(json.dumps(records, indent=1))
    elif asked.csv:
        writer = csv.DictWriter(sys.stdout, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return asked.json or asked.csv
