"""Print what `predict` says of published steps beside what was measured: for every table the error, with the rows its
constants had seen named, beside a constant ("every run reaches the table's own median share of peak").

    fitted     constants of this software fitted to these very rows (benchmarks/fit_stacks.py)
    left out   this table left out of every fit; its software's other tables, or all others, give the constants
    one row    as left out, then calibrated with one row of the table and scored on its others (mean over five choices)
    ideal      published peaks and efficiencies, nothing fitted but one constant of unfused attention

Run: python benchmarks/validate_predictions.py [--write] [rows.csv ...]
     --write keeps the table in data/measured/prediction_errors.csv; files with the tables' columns are scored alone.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from statistics import mean, median

import numpy as np
from rich.console import Console
from rich.table import Table

from llmlab.cost.published import Rows, read_rows
from llmlab.cost.scoring import (
    FILES,
    Score,
    activation_score,
    left_out,
    read_memory_tables,
    read_tables,
    regrets,
    score,
    timed,
    verdicts,
    with_one_row,
)
from llmlab.cost.stack import Stack, stack, stacks
from llmlab.hardware.facts import facts

CALCULON = {"megatron2021: megatron-2022": 0.181, "korthikanti2022": 0.0365}  # Isaev et al. 2023, as others ran it
CHOICES = 5  # of the one row
ABLATED = ("bubble", "tensor_parallel", "elementwise", "attention", "logits", "recompute", "data_parallel",
           "pipeline_messages", "host", "optimizer")  # fmt: skip
OTHER_FACTS = ("SOURCES", "software", "sizes", "stacks", "layer_times", "activation_memory")
IDEAL = {"typical": stack("ideal")}


@dataclass(frozen=True)
class Line:
    table: str
    ideal: Score
    fitted: Score
    unseen: Score
    one_row: float


def known() -> dict[str, Stack]:
    return {name: stack(name) for name in stacks()}


def one_row(rows: Rows, start: dict[str, Stack]) -> float:
    """Mean error on the other rows, over evenly spaced choices of the one row."""
    if len(rows.rows) < 2:
        return float("nan")
    choices = sorted(set(np.linspace(0, len(rows.rows) - 1, CHOICES).astype(int)))
    calibrated = (with_one_row(rows, start, int(index)) for index in choices)
    return mean(score(rows, found, only=others).error for found, others in calibrated)


def judge(tables: dict[str, Rows], name: str) -> Line:
    rows, unseen = tables[name], left_out(tables, name)
    return Line(name, score(rows, IDEAL), score(rows, known()), score(rows, unseen), one_row(rows, unseen))


def show(console: Console, lines: list[Line]) -> None:
    table = Table(title="Seconds per step: mean |predicted / measured - 1|")
    for column in ("table", "rows", "constant", "Calculon", "ideal", "fitted", "p90", "in 90%", "left out", "p90",
                   "skill", "in 90%", "one row"):  # fmt: skip
        table.add_column(column, justify="left" if column == "table" else "right")
    for line in lines:
        f, u = line.fitted, line.unseen
        calculon = f"{CALCULON[line.table]:.1%}" if line.table in CALCULON else "-"
        table.add_row(line.table, str(f.rows), f"{f.constant:.1%}", calculon, f"{line.ideal.error:.1%}",
                      f"{f.error:.1%}", f"{f.p90:.1%}", f"{f.inside:.0%}", f"{u.error:.1%}", f"{u.p90:.1%}",
                      f"{u.skill:+.2f}", f"{u.inside:.0%}", f"{line.one_row:.1%}")  # fmt: skip
    console.print(table)
    for name, errors in (
        ("ideal", [line.ideal.error for line in lines]),
        ("fitted", [line.fitted.error for line in lines]),
        ("left out", [line.unseen.error for line in lines]),
        ("one row", [line.one_row for line in lines]),
    ):
        better = sum(error < line.fitted.constant for error, line in zip(errors, lines, strict=True))
        console.print(f"{name}: median {median(errors):.1%}; below the constant on {better} of {len(lines)} tables")
    for name, scores in (("fitted", [line.fitted for line in lines]), ("left out", [line.unseen for line in lines])):
        console.print(f"in the 90% interval, {name}: {mean(s.inside for s in scores):.0%}, the mean over tables")


def show_unscored(console: Console) -> None:
    """Say how many rows of each file cannot be scored: they do not state their sizes, layout or software, or their
    authors publish them for their trend only."""
    files = sorted(path.stem for path in facts("published").glob("*.csv") if path.stem not in (*OTHER_FACTS, *FILES))
    counts = {file: read_rows(file)[1] for file in (*FILES, *files)}
    console.print("rows not scored:", ", ".join(f"{file} {count}" for file, count in counts.items() if count))


def show_memory(console: Console) -> None:
    table = Table(title="Memory of the fullest device: mean |predicted / measured - 1|")
    for column in ("software", "rows", "ideal", "fitted (factor on activations)"):
        table.add_column(column, justify="left" if column == "software" else "right")
    for name, rows in read_memory_tables().items():
        fitted = stack(name)
        table.add_row(name, str(len(rows.rows)), f"{activation_score(rows, stack('ideal')):.1%}",
                      f"{activation_score(rows, fitted):.1%} ({fitted.activations:.2f})")  # fmt: skip
    console.print(table)
    right = {name: verdicts(each) for name, each in (("ideal", stack("ideal")), ("nanotron's", stack("nanotron")))}
    console.print(
        "out of memory or not, nanotron's 1,666 trials:", ", ".join(f"{n} {v:.1%} right" for n, v in right.items())
    )


def show_regret(console: Console, tables: dict[str, Rows]) -> None:
    table = Table(title="Regret: how much slower the layout predicted to be the fastest ran than the fastest measured")
    for column in ("table", "sweeps", "mean", "worst", "at most 5%"):
        table.add_column(column, justify="left" if column == "table" else "right")
    for name, rows in tables.items():
        if found := regrets(rows, known()):
            table.add_row(name, str(len(found)), f"{mean(found):.1%}", f"{max(found):.1%}",
                          f"{mean(each <= 0.05 for each in found):.0%}")  # fmt: skip
    console.print(table)


def show_ablation(console: Console, tables: dict[str, Rows]) -> None:
    table = Table(title="Ablation: error with one term left out, constants of 'ideal' (nothing fitted)")
    chosen = [
        name for name in tables if name.startswith(("megatron2021: m", "kort", "zero", "llm", "vtrain_m", "bloom"))
    ]
    for column in ("without", *chosen):
        table.add_column(column, justify="left" if column == "without" else "right")
    for term in ("", *ABLATED):
        errors = [score(tables[name], IDEAL, without=(term,) if term else ()).error for name in chosen]
        table.add_row(term or "(nothing)", *(f"{error:.1%}" for error in errors))
    console.print(table)


def write(lines: list[Line]) -> None:
    with facts("measured").joinpath("prediction_errors.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow("table rows constant ideal fitted fitted_p90 fitted_inside left_out left_out_p90 skill "
                        "left_out_inside one_row".split())  # fmt: skip
        for line in lines:
            f, u = line.fitted, line.unseen
            numbers = (
                f.constant,
                line.ideal.error,
                f.error,
                f.p90,
                f.inside,
                u.error,
                u.p90,
                u.skill,
                u.inside,
                line.one_row,
            )
            writer.writerow([line.table, f.rows, *(f"{number:.4f}" for number in numbers)])


def show_files(console: Console, paths: list[str]) -> None:
    """Score files of rows that no constant has seen."""
    for path in paths:
        rows, unstated = read_rows(path)
        for name in sorted({row.software["stack"] for row in rows}):
            group = Rows([row for row in rows if row.software["stack"] == name and timed(row)])
            if group.rows:
                s = score(group, known())
                console.print(
                    f"{path}, {name}: {s.rows} rows, error {s.error:.1%} (bias {s.bias:+.1%}, p90 {s.p90:.1%}), "
                    f"constant {s.constant:.1%}, in 90% {s.inside:.0%}"
                )
        console.print(f"{path}: {unstated} rows do not state their sizes, layout or software")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="files to score instead")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    console = Console(width=170)
    if options.rows:
        return show_files(console, options.rows)
    tables = read_tables()
    lines = []
    for name in tables:
        lines.append(judge(tables, name))
        console.print(f"{name}: left out {lines[-1].unseen.error:.1%}", style="dim")
    show(console, lines)
    show_unscored(console)
    show_memory(console)
    show_regret(console, tables)
    show_ablation(console, tables)
    if options.write:
        write(lines)


if __name__ == "__main__":
    main()
