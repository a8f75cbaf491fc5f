"""What an application's benchmark gives: scores beside a baseline's, and the one table they all stand in."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date
from math import comb
from pathlib import Path
from typing import Any

from llmlab.hardware import describe_machine


@dataclass(frozen=True)
class Score:
    """One figure on held-out data, and what a simple baseline reaches on the same.

    metric: its name with its range, such as "accuracy, %".  seconds: of the processor, for all that this row needed:
    what a core of one's own would take.  settings: all that is wanted to do it again, in words.
    """

    data: str
    metric: str
    score: float
    baseline: str
    baseline_score: float
    seconds: float
    seed: int
    settings: str


COLUMNS = ("task", *(field.name for field in fields(Score)), "machine", "date")


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Put the seconds that the processor worked for this process into the list; ask for them after the block."""
    taken: list[float] = []
    start = time.process_time()
    yield taken
    taken.append(time.process_time() - start)


def sign_test(more: int, fewer: int) -> float:
    """Compute how likely a coin gives a count at least as uneven (two-sided)."""
    n = more + fewer
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(more, fewer) + 1)) / 2**n)


def write_scores(path: Path, task: str, scores: Sequence[Score]) -> None:
    """Put a task's rows into the table in place of its old ones; the other tasks' rows stay as they are."""
    when = {"machine": str(describe_machine()), "date": date.today().isoformat()}
    rows: list[dict[str, Any]] = [row for row in read_scores(path) if row["task"] != task]
    rows += [{"task": task, **_rounded(asdict(score)), **when} for score in scores]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(sorted(rows, key=lambda row: row["task"]))  # a stable sort: rows of a task keep their order


def read_scores(path: Path) -> list[dict[str, str]]:
    """Read the table; no rows if there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    digits = {"score": 2, "baseline_score": 2, "seconds": 1}
    return {name: round(value, digits[name]) if name in digits else value for name, value in row.items()}
