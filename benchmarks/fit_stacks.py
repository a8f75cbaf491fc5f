"""Fit each software's constants to the published tables, and write them to data/published/stacks.csv.

Time constants by the tables' seconds, the factor on activations by their memory; "typical" by all tables alike.

Run: python benchmarks/fit_stacks.py (a minute)
"""

from __future__ import annotations

import csv
import dataclasses
import statistics

from llmlab.cost.scoring import fit_activations, fit_stacks, read_memory_tables, read_tables
from llmlab.cost.stack import CONSTANTS, Stack
from llmlab.hardware.facts import facts

COLUMNS = (
    "name",
    *CONSTANTS,
    "activations",
    "fused_attention",
    "overlap_gradients",
    "gradient_bytes",
    "spread",
    "fitted_to",
)


def row(stack: Stack) -> dict[str, object]:
    values = dataclasses.asdict(stack)
    numbers = {name: f"{values[name]:.4g}" for name in (*CONSTANTS, "activations", "spread")}
    flags = {name: "yes" if values[name] else "no" for name in ("fused_attention", "overlap_gradients")}
    return {name: values[name] for name in ("name", "gradient_bytes", "fitted_to")} | numbers | flags


def software(stack: Stack, tables) -> Stack:
    """Add what the software is known to do."""
    facts = next(rows.rows[0].software for rows in tables.values() if rows.stack == stack.name)
    return dataclasses.replace(
        stack,
        fused_attention=facts["fused_attention"] == "yes",
        overlap_gradients=facts["overlap_gradients"] == "yes",
        gradient_bytes=int(facts["gradient_bytes"]),
    )


def main() -> None:
    tables, memory = read_tables(), read_memory_tables()
    fitted = fit_stacks(tables)
    for name, rows in memory.items():
        fitted[name] = dataclasses.replace(fitted[name], activations=fit_activations(rows, fitted[name]))
    usual = statistics.median(fitted[name].activations for name in memory)
    typical = dataclasses.replace(
        fitted.pop("typical"), activations=usual, gradient_bytes=4, fitted_to="all of them alike"
    )
    rows = [typical, *(software(stack, tables) for stack in fitted.values())]
    with facts("published", "stacks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(row, rows))
    for stack in rows:
        print(
            f"{stack.name:20}",
            *(f"{name} {getattr(stack, name):.3g}" for name in (*CONSTANTS, "activations", "spread")),
        )


if __name__ == "__main__":
    main()
