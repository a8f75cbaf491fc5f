"""A learning rate of one's own: what makes an opponent in a comparison of losses a fair one.

And a file of the runs that were needed for it, which a later start of the benchmark does not repeat.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

from llmlab.hardware import describe_machine

RATES = tuple(0.01 * 2.0**n for n in range(-4, 5))  # a factor of two apart, 0.000625 to 0.16


def tuned(final_loss: Callable[[float], float]) -> float:
    """Walk RATES outwards from their middle until the best learning rate has a worse one on each side; give it.

    The grid's ends stop the walk: a best rate there is not bracketed.
    """
    losses: dict[float, float] = {}
    ahead = _around(RATES[len(RATES) // 2])
    while ahead:
        losses |= {lr: final_loss(lr) for lr in ahead}
        ahead = [lr for lr in _around(min(losses, key=lambda lr: losses[lr])) if lr not in losses]
    return min(losses, key=lambda lr: losses[lr])


def _around(lr: float) -> list[float]:
    at = RATES.index(lr)
    return list(RATES[max(at - 1, 0) : at + 2])


def open_runs(path: Path, columns: Iterable[str], key: Iterable[str]) -> dict[tuple[str, ...], float]:
    """The last loss of each run in the file, by the text in its key columns; begin the file if there is none."""
    if not path.exists():
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([*columns, "machine", "date"])
    with path.open(newline="") as file:
        return {tuple(row[column] for column in key): float(row["loss"]) for row in csv.DictReader(file)}


def write_runs(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Add rows to the file, each with the machine and the date."""
    when = str(describe_machine()), date.today().isoformat()
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([*row, *when] for row in rows)
