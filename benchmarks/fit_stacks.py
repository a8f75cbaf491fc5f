"""Fit every owner's constants to the published tables, and write them to data/published/constants.csv and stacks.csv.

Time constants by the tables' seconds, all owners at once; each software's factor on activations by its memory.

Run: python benchmarks/fit_stacks.py (half a minute of one core)
"""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterable

from llmlab.cost.fitting import owners_of, residuals, stacks_of
from llmlab.cost.ownership import MEASURED, WIDTHS, Owners, fitted
from llmlab.cost.published import Rows
from llmlab.cost.scoring import fit_activations, fit_owners, read_memory_tables, read_tables
from llmlab.cost.stack import Stack
from llmlab.hardware.facts import facts

FLAGS = ("fused_attention", "overlap_gradients", "gradient_bytes", "fused_accumulation", "early_stop", "stages")
MOVED = 0.9  # of a prior's width: a constant that is still so uncertain is the prior's, ASSUMED


def constants(owners: Owners, tables: dict[str, Rows]) -> Iterable[dict[str, object]]:
    """A row for each constant: its logarithm, one sigma, how it was found, and how many rows its owner has."""
    counts = Counter(pair for rows in tables.values() for row in rows.rows for pair in owners_of(row).items())
    for key in sorted(owners.sigmas):
        kind, owner, name = key
        status = "FITTED" if owners.sigmas[key] < MOVED * WIDTHS[kind][name] else "ASSUMED"
        status = "MEASURED" if key in MEASURED else status
        yield {"kind": kind, "owner": owner, "constant": name, "log": f"{owners.logs[key]:.4f}",
               "sigma": f"{owners.sigmas[key]:.4f}", "status": status, "rows": counts[kind, owner]}  # fmt: skip
    for kind, owner, _ in sorted(set(owners.logs) - set(owners.sigmas)):
        yield {"kind": kind, "owner": owner, "constant": "", "log": 0, "sigma": 0, "status": "", "rows": ""}


def habits(stack: Stack, tables: dict[str, Rows]) -> dict[str, object]:
    """A row of what a software is known to do."""
    own = next((rows.rows[0].software for rows in tables.values() if rows.stack == stack.name), None)
    known = own or {
        "fused_attention": "yes",
        "overlap_gradients": "yes",
        "gradient_bytes": 4,
        "fused_accumulation": "no",
        "early_stop": "no",
        "stages": "",
    }
    numbers = {name: f"{getattr(stack, name):.4g}" for name in ("activations", "spread", "tp_overlap", "ep_overlap")}
    flags = {name: known[name] for name in FLAGS}
    return {"name": stack.name, "fitted_to": stack.fitted_to or "all of them alike"} | numbers | flags


def write(name: str, rows: list[dict[str, object]]) -> None:
    with facts("published", name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    tables, memory = read_tables(), read_memory_tables()
    owners = fit_owners(tables, fitted())  # from the last fit, to spare rounds
    write("constants.csv", list(constants(owners, tables)))
    stacks = stacks_of(owners, tables, residuals(owners, tables))
    factors = {name: fit_activations(rows, stacks[name]) for name, rows in memory.items()}
    usual = statistics.median(factors.values())
    stacks = {
        name: dataclasses.replace(each, activations=factors.get(name, usual if name == "typical" else 1.0))
        for name, each in stacks.items()
    }
    write("stacks.csv", [habits(each, tables) for each in stacks.values()])
    for stack in stacks.values():
        print(f"{stack.name:20} activations {stack.activations:.3g} spread {stack.spread:.3g}; {stack.fitted_to}")
    for row in constants(owners, tables):
        print(*row.values())


if __name__ == "__main__":
    main()
