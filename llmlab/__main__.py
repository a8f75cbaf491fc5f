"""The command line: `python -m llmlab plan --model llama3-70b --gpus 512 --device h100 --global-batch 1024 --seq 8192`.

Everything printed by `plan` and `predict` is modelled, not measured. Errors are one line on stderr, exit code 2.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # torch takes two seconds to import: `--help` does without
    from rich.table import Table

    from llmlab.cost.plans import Planned, Prices
    from llmlab.cost.prediction import Prediction

MODELLED = "Modelled, not measured"
LEGEND = "sp: sequence parallel; m: microbatches of a replica; (90%): where nine in ten measured steps would lie."
SHORT = "A row is the best of its tp, pp and ep; alike: others of these within 1% (--every lists all)."
TIGHT = "tight: fills over 95% of what may be used, may not run, and is ranked as if 5% slower."
UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
WIDTH = 165  # of a table that no terminal shows


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give its exit code."""
    asked = parser().parse_args(arguments)
    try:
        asked.run(asked)
    except ValueError as error:
        print(f"llmlab {asked.command}: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> Parser:
    """Make the parser of all commands."""
    top = Parser(prog="llmlab", description="Plan and predict the training of language models on many GPUs.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    planning = commands.add_parser("plan", help="rank every layout that fits", description=run_plan.__doc__)
    _add_step(planning)
    planning.add_argument("--gpus", type=count, required=True, help="how many devices")
    planning.add_argument("--recompute", nargs="+", metavar="KIND", help="none, selective, full (default: try all)")
    planning.add_argument("--zero", type=int, nargs="+", default=[0, 1, 2, 3], metavar="STAGE", help="stages to try")
    planning.add_argument("--memory-share", type=float, default=0.9, help="of a device that may be used (default: 0.9)")
    planning.add_argument("--schedules", nargs="+", default=["1f1b", "interleaved", "zb_h1"], metavar="NAME",
                          help="of a pipeline, to try (default: 1f1b interleaved zb_h1)")  # fmt: skip
    planning.add_argument(
        "--contexts", nargs="+", default=["ring"], metavar="NAME", help="ring, ulysses (default: ring)"
    )
    planning.add_argument("--top", type=int, default=10, help="layouts shown (default: 10)")
    planning.add_argument("--every", action="store_true", help="show near-duplicates too, not the best of each split")
    planning.set_defaults(run=run_plan)
    predicting = commands.add_parser("predict", help="predict one layout", description=run_predict.__doc__)
    _add_step(predicting)
    _add_layout(predicting)
    predicting.add_argument("--measured", type=float, metavar="SECONDS", help="your step: says what may be off")
    predicting.set_defaults(run=run_predict)
    for name, run in (("models", run_models), ("clusters", run_clusters), ("stacks", run_stacks)):
        listing = commands.add_parser(name, help=f"list the {name} known by name", description=run.__doc__)
        listing.set_defaults(run=run)
    for command in commands.choices.values():
        output = command.add_mutually_exclusive_group()
        output.add_argument("--json", action="store_true", help="print JSON")
        output.add_argument("--csv", action="store_true", help="print CSV")
    return top


def count(text: str) -> int:
    """Read a whole number; `8k` is 8 x 1024, as lengths, batches and clusters are counted."""
    return int(text[:-1]) * 1024 if text.lower().endswith("k") else int(text)


def _add_step(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", required=True, help="a name of `llmlab models`")
    command.add_argument("--device", "--cluster", default="h100", help="a name of `llmlab clusters` (default: h100)")
    command.add_argument("--global-batch", type=count, required=True, help="sequences in a step")
    command.add_argument("--seq", type=count, required=True, help="tokens in a sequence: 8192, or 8k for 8 x 1024")
    command.add_argument("--precision", default="bf16", help="fp8, bf16, fp16, fp32 or fp64 (default: bf16)")
    command.add_argument(
        "--stack", default="typical", help="whose software: a name of `llmlab stacks` (default: typical)"
    )
    command.add_argument(
        "--tokens", type=tokens, default=1e9, help="of the whole training: 15e12, or 15T (default: 1B)"
    )
    command.add_argument("--price", type=float, help="of an hour of a GPU, in any currency")
    command.add_argument("--price-per-kwh", type=float, help="of electricity, in the same currency")
    command.add_argument("--watts", type=float, help="a GPU draws (default: the data sheet's TDP, where known)")
    command.add_argument("--pue", type=float, default=1.0, help="what the site draws over its GPUs (default: 1)")


def tokens(text: str) -> float:
    """Read tokens of a training: `15e12`, or `15T`."""
    return float(text[:-1]) * UNITS[text[-1]] if text[-1:] in UNITS else float(text)


def _add_layout(command: argparse.ArgumentParser) -> None:
    for degree in ("dp", "tp", "pp", "cp", "ep", "virtual-stages"):
        command.add_argument(f"--{degree}", type=int, default=1)
    command.add_argument("--zero", type=int, default=0, help="0, 1, 2 or 3")
    command.add_argument("--sequence-parallel", action="store_true")
    command.add_argument("--schedule", default="1f1b", help="gpipe, 1f1b, interleaved or zb_h1")
    command.add_argument("--context", default="ring", help="ring or ulysses")
    command.add_argument("--microbatches", type=int, help="of a replica (default: a sequence at a time)")
    command.add_argument("--recompute", default="none", help="none, selective or full (default: none)")


# --- the commands -----------------------------------------------------------------------------------------------------


def run_plan(asked: argparse.Namespace) -> None:
    """Predict every legal layout of a step, and rank those that fit. Modelled, not measured."""
    from llmlab.cost.models import find_config
    from llmlab.cost.planning import plan
    from llmlab.cost.plans import say_layout

    found = plan(
        find_config(asked.model), asked.device, gpus=asked.gpus, global_batch=asked.global_batch, seq=asked.seq,
        precision=asked.precision, recompute=asked.recompute, stack=asked.stack, zero=asked.zero,
        schedules=asked.schedules, contexts=asked.contexts, memory_share=asked.memory_share, tokens=asked.tokens,
        prices=_prices(asked), limit=asked.top,
    )  # fmt: skip
    if _machine_readable(asked, found.records(asked.every)):
        return
    best = f"The best by cause: {say_layout(found[0].layout)}, recompute {found[0].recompute}"
    shown = found.rows if asked.every else found.shortlist
    tight = [found.tight(row) for row in shown]
    _print(_ranking(_title(asked, asked.gpus), shown, tight, alike=not asked.every), _breakdown(best, found[0]))
    _print(f"{MODELLED}. {found.fitting:,} layouts fit; {found.refused}.", LEGEND)
    _print(*[SHORT] * (not asked.every), *[TIGHT] * any(tight))


def run_predict(asked: argparse.Namespace) -> None:
    """Predict one step of one layout. Modelled, not measured."""
    from llmlab.cost.models import find_config
    from llmlab.cost.planning import price_layout
    from llmlab.cost.plans import record
    from llmlab.parallel.layout import Layout

    layout = Layout(
        dp=asked.dp, tp=asked.tp, pp=asked.pp, cp=asked.cp, ep=asked.ep, zero=asked.zero, context=asked.context,
        sequence_parallel=asked.sequence_parallel, schedule=asked.schedule, virtual_stages=asked.virtual_stages,
        microbatches=asked.microbatches or max(1, asked.global_batch // max(1, asked.dp)),
    )  # fmt: skip
    row = price_layout(
        find_config(asked.model), layout, asked.device, global_batch=asked.global_batch, seq=asked.seq,
        precision=asked.precision, recompute=asked.recompute, stack=asked.stack, tokens=asked.tokens,
        prices=_prices(asked),
    )  # fmt: skip
    if _machine_readable(asked, [record(row)]):
        return
    _print(_ranking(_title(asked, layout.ranks), [row]), _breakdown("By cause", row))
    if asked.measured is not None:
        _print(_suspects(row.prediction, asked.measured))
    _print(f"{MODELLED}. Memory: {row.prediction.verdict}.", LEGEND)


def _prices(asked: argparse.Namespace) -> Prices:
    from llmlab.cost.plans import Prices

    return Prices(asked.price, asked.price_per_kwh, asked.watts, asked.pue)


def run_models(asked: argparse.Namespace) -> None:
    """List the models known by name, with their sizes and sources."""
    from llmlab.cost.models import find_model, model_names

    records = []
    for model in map(find_model, model_names()):
        c = model.config
        experts = f"{c.n_expert_active} of {c.n_expert} + {c.n_expert_shared}" if c.n_expert else ""
        records.append({
            "model": model.name, "parameters": c.n_param, "layers": c.n_layer, "d_model": c.d_model,
            "heads": c.n_head, "key heads": c.n_kv_head, "d_ff": c.d_ff, "vocabulary": c.vocab_size,
            "experts": experts, "source": model.source,
        })  # fmt: skip
    _list(asked, "Models", records)


def run_clusters(asked: argparse.Namespace) -> None:
    """List the clusters known by name: published specs, none of them measured here."""
    from llmlab.hardware import cluster, clusters
    from llmlab.hardware.power import watts

    records = []
    for on in map(cluster, clusters()):
        records.append({
            "cluster": on.name, "device": on.device.name, "in a node": on.devices_per_node,
            "16-bit TFLOP/s": on.device.peak("bf16") / 1e12,
            "GiB": round(on.device.memory_bytes / 2**30, 2), "GB/s": on.device.memory_bytes_per_s / 1e9,
            "TDP (W)": watts(on.device), "within": on.intra.name, "between": on.inter.name,
            "source": on.source,
        })  # fmt: skip
    _list(asked, "Clusters", records)


def run_stacks(asked: argparse.Namespace) -> None:
    """List the software stacks known by name: factors on published hardware, and the tables they were fitted to."""
    from llmlab.cost.stack import CONSTANTS, stack, stacks

    records = []
    for each in map(stack, stacks()):
        fitted = each.fitted_to or "nothing: counted, or as published"
        constants = {constant: round(getattr(each, constant), 3) for constant in CONSTANTS}
        records.append(
            {"stack": each.name, **constants, "90% within": f"x {math.exp(each.spread):.2f}", "fitted to": fitted}
        )
    _list(asked, "Stacks", records)


# --- how it is printed ------------------------------------------------------------------------------------------------


def _title(asked: argparse.Namespace, gpus: int) -> str:
    step = f"{asked.global_batch:,} x {asked.seq:,} tokens a step, {asked.precision}"
    return f"{asked.model} on {gpus:,} x {asked.device}: {step}; GPU-hours are of {_count(asked.tokens)} tokens"


def _count(n: float) -> str:
    """Say a large number in the field's units: `15T`."""
    unit = next((name for name, size in reversed(UNITS.items()) if n >= size), "")
    return f"{n / UNITS.get(unit, 1):.4g}{unit}"


def _ranking(title: str, rows: Sequence[Planned], tight: Sequence[bool] = (), alike: bool = False) -> Table:
    from llmlab.cost.plans import gib, say_layout

    header = ["", "layout", "recompute", "s a step (90%)", "MFU", "TFLOP/s", "memory", "GPU-hours"]
    costs = [_costs(row) for row in rows]
    table = _table(title, [*header, *costs[0], *["alike"] * alike], left=(1, 2))
    for place, (row, cost) in enumerate(zip(rows, costs, strict=True), 1):
        p = row.prediction
        low, high = p.interval
        held = "tight " * (place <= len(tight) and tight[place - 1]) + gib(p.memory_bytes)
        table.add_row(
            str(place), say_layout(row.layout), row.recompute, f"{p.seconds:.4g} ({low:.3g} to {high:.3g})",
            f"{p.mfu:.1%}", f"{p.tflops_per_gpu:.0f}", held, f"{row.gpu_hours:,.0f}", *cost.values(),
            *[f"{row.alike:,}"] * alike,
        )  # fmt: skip
    return table


def _costs(row: Planned) -> dict[str, str]:
    """What is known of the cost: nothing is made up where no price was said."""
    known = {"cost": row.money, "MWh": None if row.energy_kwh is None else row.energy_kwh / 1000}
    return {name: _amount(value) for name, value in known.items() if value is not None}


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _breakdown(title: str, row: Planned) -> Table:
    """Seconds by cause and memory by category, side by side, the largest first."""
    from llmlab.cost.plans import gib

    p = row.prediction
    table = _table(title, ["cause", "seconds", "of the step", "memory of a GPU", ""], left=(0, 3))
    causes = sorted((item for item in p.breakdown.items() if item[1] > 0), key=lambda item: -item[1])
    held = sorted((item for item in p.memory.items() if item[1] > 0), key=lambda item: -item[1])
    for i in range(max(len(causes), len(held))):
        time = [causes[i][0], f"{causes[i][1]:.4g}", f"{causes[i][1] / p.seconds:.1%}"] if i < len(causes) else [""] * 3
        table.add_row(*time, *([held[i][0], gib(held[i][1])] if i < len(held) else ["", ""]))
    return table


def _suspects(p: Prediction[float], measured_s: float) -> Table:
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
    table = _table(title, ["cause", "predicted", "times as long", "measure next"], left=(0, 3))
    for suspect in suspects[:6]:
        factor = "cannot" if suspect.factor is None else f"{suspect.factor:.2f}"
        table.add_row(suspect.cause, f"{suspect.seconds:.4g} s", factor, suspect.measure)
    return table


def _list(asked: argparse.Namespace, title: str, records: list[dict[str, Any]]) -> None:
    if _machine_readable(asked, records):
        return
    table = _table(title, list(records[0]), left=[i for i, v in enumerate(records[0].values()) if isinstance(v, str)])
    for column in table.columns[:-1]:
        column.no_wrap = True  # the last, a source, gives way; it is cut short here, JSON and CSV have all of it
    for each in records:
        *cells, source = map(_cell, each.values())
        table.add_row(*cells, shorten(source, 28, placeholder=" ..."))
    _print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _table(title: str, header: Sequence[str], left: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i in left else "right")
    return table


def _print(*parts: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for part in parts:
        console.print(part)


def _machine_readable(asked: argparse.Namespace, records: list[dict[str, Any]]) -> bool:
    """Print the records as JSON or CSV, if that was asked for."""
    if asked.json:
        print(json.dumps(records, indent=1))
    elif asked.csv:
        writer = csv.DictWriter(sys.stdout, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return asked.json or asked.csv


if __name__ == "__main__":
    sys.exit(main())
