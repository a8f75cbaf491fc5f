"""Print what `predict` says of published steps beside what was measured, with the rows its constants had seen named.

    fitted     constants fitted to these very rows, among all others (benchmarks/fit_stacks.py)
    left out   this table left out of the fit: what counts
    one row    as left out, then calibrated with one row of the table and scored on its others (mean over three choices)
    ideal      published peaks and efficiencies, nothing fitted but one constant of unfused attention

Two yardsticks, both "every run reaches this share of peak": `own`, the table's median, has seen the answers; `given` is
the median of all other tables' rows, which is what one could have known.

Run: python benchmarks/validate_predictions.py [--write] [--owners] [rows.csv ...]   (some minutes of one core)
     --write keeps the table in data/measured/prediction_errors.csv; --owners fits fewer and more constants instead,
     kept in prediction_owners.csv; files with the tables' columns are scored alone.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, median

import numpy as np
from rich.console import Console
from rich.table import Table

from llmlab.cost.fitting import stacks_of
from llmlab.cost.ownership import WIDTHS, Owners, fitted
from llmlab.cost.published import PublishedRow, Rows, check_rows, read_rows
from llmlab.cost.scoring import (
    FILES,
    Judged,
    Score,
    activation_score,
    fit_owners,
    given_constant,
    judge,
    leave_out,
    left_out,
    read_memory_tables,
    read_tables,
    regrets,
    regrets_of_errors,
    score,
    timed,
    verdicts,
    with_one_row,
)
from llmlab.cost.stack import Stack, stack, stacks
from llmlab.hardware.facts import facts

CHOICES = 3  # of the one row
ABLATED = ("bubble", "tensor_parallel", "elementwise", "attention", "logits", "recompute", "data_parallel",
           "pipeline_messages", "host", "optimizer")  # fmt: skip
OTHER_FACTS = ("SOURCES", "software", "sizes", "stacks", "constants", "layer_times", "activation_memory",
               "collective_bandwidth")  # fmt: skip
IDEAL = {"typical": stack("ideal")}
OWNERS = "owners constants fitted fitted_mean left_out left_out_mean"
EVERY = {**WIDTHS["everyone"], "overlap": 0.5}
# from nothing fitted to the first round's constants, a whole set for each software and hardly any prior
MODELS: dict[str, dict[str, dict[str, float]]] = {
    "nothing": {},
    "everyone": {"everyone": EVERY},
    "everyone and paces": {"everyone": EVERY, "software": {"pace": 0.15}},
    "all owners, shrunk": WIDTHS,
    "a free set for each software": {"everyone": EVERY, "software": {name: 5 * w for name, w in EVERY.items()}},
}


@dataclass(frozen=True)
class Line:
    table: str
    ideal: Score
    fitted: Score
    unseen: Score
    inside_before: float  # of the interval that knows its own software's residuals alone
    one_row: float
    judged: Judged
    given: float  # the share of peak
    regrets: list[float]


def known() -> dict[str, Stack]:
    return {name: stack(name) for name in stacks()}


def one_row(rows: Rows, start: dict[str, Stack]) -> float:
    """Mean error on the other rows, over evenly spaced choices of the one row."""
    if len(rows.rows) < 2:
        return float("nan")
    choices = sorted(set(np.linspace(0, len(rows.rows) - 1, CHOICES).astype(int)))
    calibrated = (with_one_row(rows, start, int(index)) for index in choices)
    return mean(score(rows, found, only=others).error for found, others in calibrated)


def line(tables: dict[str, Rows], name: str, start: Owners) -> Line:
    rows, given = tables[name], given_constant(tables, name)
    unseen = left_out(tables, name, start)
    judged = judge(rows, unseen)
    spread = unseen.get(rows.stack, unseen["typical"]).spread
    before = float((np.abs(np.log(judged.ratios)) <= spread).mean())
    return Line(name, score(rows, IDEAL, given=given), score(rows, known(), given=given), judged.score(given), before,
                one_row(rows, unseen), judged, given, regrets(rows, unseen))  # fmt: skip


def show(console: Console, lines: list[Line]) -> None:
    table = Table(title="Seconds per step: mean |predicted / measured - 1|")
    for column in ("table", "rows", "own", "given", "ideal", "fitted", "left out", "bias", "p90", "in 90%", "one row",
                   "regret"):  # fmt: skip
        table.add_column(column, justify="left" if column == "table" else "right")
    for each in lines:
        u = each.unseen
        worse = "" if u.error < u.given else " (!)"
        regret = f"{np.quantile(each.regrets, 0.9):.1%} of {len(each.regrets)}" if each.regrets else "-"
        table.add_row(each.table, str(u.rows), f"{u.own:.1%}", f"{u.given:.1%}", f"{each.ideal.error:.1%}",
                      f"{each.fitted.error:.1%}", f"{u.error:.1%}{worse}", f"{u.bias:+.1%}", f"{u.p90:.1%}",
                      f"{u.inside:.0%}", f"{each.one_row:.1%}", regret)  # fmt: skip
    console.print(table)
    unseen = [each.unseen for each in lines]
    console.print(
        f"left out: median {median(u.error for u in unseen):.1%}, below the given constant on "
        f"{sum(u.error < u.given for u in unseen)} of {len(unseen)} tables; in the 90% interval "
        f"{mean(u.inside for u in unseen):.0%}, the mean over tables ({mean(each.inside_before for each in lines):.0%} "
        f"by the software's own residuals alone)"
    )
    found = [regret for each in lines for regret in each.regrets]
    console.print(
        f"regret at most 5% in {mean(regret <= 0.05 for regret in found):.0%} of {len(found)} sweeps, left out"
    )
    swept = [each.judged.rows for each in lines if each.regrets]
    for sigma in (0.02, 0.04, 0.06, 0.10, 0.15):
        chosen = [regret for rows in swept for regret in regrets_of_errors(rows, sigma)]
        console.print(
            f"    in {mean(regret <= 0.05 for regret in chosen):.0%}, if predictions of different kernels were off by "
            f"e^{sigma:.2f} at random and by nothing else"
        )
    known_elsewhere = defaultdict(list)
    names = [each.judged.rows.stack for each in lines]
    for each, name in zip(lines, names, strict=True):
        known_elsewhere["seen in another table" if names.count(name) > 1 else "new"].append(each.judged.ratios)
    for kind, ratios in known_elsewhere.items():
        off = np.sqrt(np.mean([np.log(each).mean() ** 2 for each in ratios]))
        console.print(f"software {kind}: tables are off by e^{off:.2f} (rms of {len(ratios)})")


def show_by(console: Console, lines: list[Line], title: str, kind: Callable[[PublishedRow], str]) -> None:
    """Left-out errors of rows of a kind, tables weighing alike within it."""
    errors, given = defaultdict(list), defaultdict(list)
    for each in lines:
        kinds = np.array([kind(row) for row in each.judged.rows.rows])
        for name in np.unique(kinds):
            errors[name].append(np.abs(each.judged.ratios - 1)[kinds == name].mean())
            constant = each.judged.reached / each.given - 1
            given[name].append(np.abs(constant)[kinds == name].mean())
    table = Table(title=f"Left out, by {title}: mean over tables")
    for column in (title, "tables", "error", "given"):
        table.add_column(column, justify="left" if column == title else "right")
    for name, found in sorted(errors.items()):
        table.add_row(name, str(len(found)), f"{mean(found):.1%}", f"{mean(given[name]):.1%}")
    console.print(table)


def model_kind(row: PublishedRow) -> str:
    kind = "experts" if row.config["n_expert"] else "dense"
    return f"{kind}, long sequences" if row.seq >= 32768 else kind


def show_unscored(console: Console) -> None:
    """Count the rows of each file that cannot be scored, by the name of the rule that refuses them."""
    files = sorted(path.stem for path in facts("published").glob("*.csv") if path.stem not in (*OTHER_FACTS, *FILES))
    for file in (*FILES, *files):
        _, refused = read_rows(file)
        if refused:
            console.print(f"not scored of {file}:", ", ".join(f"{count} {why}" for why, count in refused.items()))


def show_memory(console: Console) -> None:
    table = Table(title="Memory of the fullest device: mean |predicted / measured - 1|")
    for column in ("software", "rows", "ideal", "fitted (factor on activations)"):
        table.add_column(column, justify="left" if column == "software" else "right")
    for name, rows in read_memory_tables().items():
        fitted_stack = stack(name)
        table.add_row(name, str(len(rows.rows)), f"{activation_score(rows, stack('ideal')):.1%}",
                      f"{activation_score(rows, fitted_stack):.1%} ({fitted_stack.activations:.2f})")  # fmt: skip
    console.print(table)
    for kind, every in (("whose failure may be memory's", False), ("all of them", True)):
        right = {name: verdicts(stack(name), every) for name in ("ideal", "nanotron")}
        said = ", ".join(f"{name} {share:.1%} right" for name, share in right.items())
        console.print(f"out of memory or not, nanotron's trials, {kind}: {said}")


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


def fewer_and_more(console: Console, tables: dict[str, Rows]) -> list[list[object]]:
    """Errors fitted and left out of models with more and more constants, on the A100's tables: where the two part,
    constants fit noise."""
    tables = {name: rows for name, rows in tables.items() if rows.rows[0].cluster.device.generation == "ampere"}
    found: list[list[object]] = []
    for name, widths in MODELS.items():
        owners = fit_owners(tables, widths=widths) if widths else Owners()
        errors = [score(rows, stacks_of(owners, tables)).error for rows in tables.values()]
        unseen = errors
        if widths:  # one step from the fit to all tables: the steps of all leave-outs share their slopes
            less = leave_out(tables, owners, widths)
            unseen = [score(rows, stacks_of(less[each], tables)).error for each, rows in tables.items()]
        found.append([name, len(owners.sigmas), median(errors), mean(errors), median(unseen), mean(unseen)])
        console.print(f"{name}: {len(owners.sigmas)} constants, fitted {mean(errors):.1%}, left out {mean(unseen):.1%}")
    return found


def keep(name: str, header: str, rows: list[list[object]]) -> None:
    with facts("measured").joinpath(name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split())
        writer.writerows([[f"{each:.4f}" if isinstance(each, float) else each for each in row] for row in rows])


def write(lines: list[Line]) -> None:
    rows: list[list[object]] = []
    for each in lines:
        f, u = each.fitted, each.unseen
        rows.append([each.table, f.rows, f.own, f.given, each.ideal.error, f.error, f.p90, f.inside, u.error, u.bias,
                     u.p90, u.skill, u.inside, each.inside_before, each.one_row])  # fmt: skip
    keep(
        "prediction_errors.csv",
        "table rows constant given ideal fitted fitted_p90 fitted_inside left_out left_out_bias left_out_p90 skill "
        "left_out_inside left_out_inside_before one_row",
        rows,
    )


def show_files(console: Console, paths: list[str], given: float) -> None:
    """Score files of rows that no constant has seen, and say what the others lack."""
    for path in paths:
        rows, refused = read_rows(path)
        for name in sorted({row.software["stack"] for row in rows}):
            group = Rows([row for row in rows if row.software["stack"] == name and timed(row)])
            if group.rows:
                s = score(group, known(), given=given)
                console.print(
                    f"{path}, {name}: {s.rows} rows, error {s.error:.1%} (bias {s.bias:+.1%}, p90 {s.p90:.1%}), "
                    f"constants: own {s.own:.1%}, given {s.given:.1%}; in 90% {s.inside:.0%}"
                )
        for row, lacks in check_rows(path).items():
            if lacks:
                console.print(f"{path}, {row}: {'; '.join(lacks)}", style="dim")
        console.print(f"{path}: {sum(refused.values())} rows refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="files to score instead")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--owners", action="store_true", help="fit fewer and more constants instead")
    options = parser.parse_args()
    console = Console(width=170)
    tables = read_tables()
    if options.rows:
        return show_files(console, options.rows, given_constant(tables))
    if options.owners:
        found = fewer_and_more(console, tables)
        return keep("prediction_owners.csv", OWNERS, found) if options.write else None
    lines, starts = [], leave_out(tables, fitted())
    for name in tables:
        lines.append(line(tables, name, starts[name]))
        console.print(f"{name}: left out {lines[-1].unseen.error:.1%}", style="dim")
    if options.write:
        write(lines)
    show(console, lines)
    show_by(console, lines, "hardware", lambda row: row.cluster.device.name)
    show_by(console, lines, "precision", lambda row: row.precision)
    show_by(console, lines, "model", model_kind)
    show_unscored(console)
    show_memory(console)
    show_ablation(console, tables)


if __name__ == "__main__":
    main()
