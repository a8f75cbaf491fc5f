"""Hold the closed form against what others measured: fit each software's constants, with any table left out, and score.

Every number says which rows its constants had seen. The yardstick is a constant: "every run of this table reaches the
table's own median share of peak".
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from llmlab.cost.calibration import fit
from llmlab.cost.prediction import MARGIN
from llmlab.cost.published import PublishedRow, Rows, read_rows
from llmlab.cost.stack import Stack

FILES = (
    "megatron2021", "korthikanti2022", "zero_bubble", "llm_foundry", "vtrain_multi", "vtrain_single", "bloom_prequel",
    "internevo", "dgxc_recipes", "megatron_bridge", "maxtext_tpu_and_fms", "torchtitan", "nemo", "nanotron_playbook",
)  # fmt: skip
ROWS_COUNTED = 30  # of a table, when tables are fitted together: a long one does not drown the others
TYPICAL = Stack(name="typical", host=6.0, congestion=0.1)  # where fits start; eager is 13


def timed(row: PublishedRow) -> bool:
    """Whether a row's time is to be scored.

    nanotron's rows with pp > 1 or tp > 8 have 20 to 1,400 ms per micro-batch that nothing explains: memory only.
    """
    odd = row.software["stack"] == "nanotron" and (row.layout["pp"] > 1 or row.layout["tp"] > 8)
    return "time" in row.score and row.seconds is not None and row.ran and not odd


def read_tables() -> dict[str, Rows]:
    """Every table's rows with a time to score, by file and software."""
    tables: dict[str, list[PublishedRow]] = defaultdict(list)
    for file in FILES:
        rows, _ = read_rows(file)
        stacks = {row.software["stack"] for row in rows}
        for row in rows:
            if timed(row):
                tables[file if len(stacks) == 1 else f"{file}: {row.software['stack']}"].append(row)
    return {name: Rows(rows) for name, rows in tables.items()}


def fit_stacks(tables: dict[str, Rows], only: str | None = None) -> dict[str, Stack]:
    """Fit `typical` to all tables alike, and from there each software's stack (or `only` this one) to its own."""
    families = defaultdict(list)
    for table, rows in tables.items():
        families[rows.stack].append(table)
    typical = _fit(list(tables.values()), TYPICAL)
    found = {"typical": typical}
    for name in families if only is None else families.keys() & {only}:
        fitted = _fit([tables[table] for table in families[name]], typical)
        found[name] = dataclasses.replace(fitted, name=name, fitted_to="; ".join(families[name]))
    return found


def _fit(tables: list[Rows], start: Stack) -> Stack:
    measured = np.concatenate([rows.seconds for rows in tables])
    sizes = [len(rows.rows) for rows in tables]
    weights = np.concatenate([np.full(n, min(n, ROWS_COUNTED) / n) for n in sizes])

    def seconds(guess: Stack) -> np.ndarray:
        return np.concatenate([rows.predict_seconds({"typical": guess}) for rows in tables])

    return fit(seconds, measured, start, weights)


def read_memory_tables() -> dict[str, Rows]:
    """Every software's rows with a memory to score."""
    tables: dict[str, list[PublishedRow]] = defaultdict(list)
    for file in FILES:
        for row in read_rows(file)[0]:
            if row.memory_gib and row.ran and "memory" in row.score:
                tables[row.software["stack"]].append(row)
    return {name: Rows(rows) for name, rows in tables.items()}


def fit_activations(rows: Rows, stack: Stack) -> float:
    """The factor on activations that brings a software's predicted memory closest to what was measured."""
    factors = np.geomspace(0.25, 4, 81)
    misses = [activation_score(rows, dataclasses.replace(stack, activations=factor)) for factor in factors]
    return float(factors[np.argmin(misses)])


def activation_score(rows: Rows, stack: Stack) -> float:
    """Mean |predicted / measured - 1| of the fullest device's memory."""
    return float(np.abs(_gib(rows, stack) / rows.memory_gib - 1).mean())


def verdicts(stack: Stack) -> float:
    """Share of nanotron's trials whose end is predicted: those that ran fit, and those that failed do not.

    A pipeline of more stages than layers is refused, as by `Layout.check`; some failed for reasons that no row states.
    """
    rows = Rows([row for row in read_rows("nanotron_playbook")[0] if row.score])
    found = rows.predictions({"typical": stack})
    device = rows.rows[0].cluster.device.memory_bytes
    fits = rows.gather(found, "memory_bytes") <= MARGIN * device
    possible = np.array([row.layout["pp"] <= row.config["n_layer"] for row in rows.rows])
    return float(((fits & possible) == np.array([row.ran for row in rows.rows])).mean())


def _gib(rows: Rows, stack: Stack) -> np.ndarray:
    return rows.gather(rows.predictions({"typical": stack}), "memory_bytes") / 2**30


@dataclass(frozen=True)
class Score:
    """How far predictions are from what was measured, as shares of it. `inside`: share of rows in the 90% interval."""

    rows: int
    error: float  # mean |predicted / measured - 1|
    bias: float
    p90: float
    constant: float  # the yardstick's error
    inside: float

    @property
    def skill(self) -> float:
        """1: no error; 0: no better than the constant."""
        return 1 - self.error / self.constant


def score(
    rows: Rows, stacks: dict[str, Stack], without: tuple[str, ...] = (), only: slice | np.ndarray = slice(None)
) -> Score:
    """Score a table's rows (or `only` some of them) with these stacks; a software not among them is `typical`."""
    found = rows.predictions(stacks, without)
    misses = (rows.gather(found, "seconds") / rows.seconds - 1)[only]
    spread = stacks.get(rows.stack, stacks["typical"]).spread
    reached = rows.reached(found)
    return Score(
        rows=len(misses),
        error=float(np.abs(misses).mean()),
        bias=float(misses.mean()),
        p90=float(np.quantile(np.abs(misses), 0.9)),
        constant=float(np.abs(reached / np.median(reached) - 1)[only].mean()),
        inside=float((np.abs(np.log1p(misses)) <= spread).mean()),
    )


def sweeps(rows: Rows) -> list[dict[Hashable, list[int]]]:
    """Rows of the same work on as many devices of the same kind, by layout; three layouts or more."""
    groups: dict[Hashable, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows.rows):
        ranks = row.layout["dp"] * row.layout["tp"] * row.layout["pp"] * row.layout["cp"]
        batch = row.layout["dp"] * row.layout["microbatches"] * row.micro_batch
        work = (row.cluster.name, row.precision, ranks, batch, row.seq, *row.config.values())
        groups[work][(*row.layout.values(), row.recompute)].append(index)
    return [layouts for layouts in groups.values() if len(layouts) >= 3]


def regrets(rows: Rows, stacks: dict[str, Stack]) -> list[float]:
    """For each sweep: how much slower the layout with the least predicted time ran than the best measured one.

    Rows that differ in nothing a layout says count as one, with their median.
    """
    predicted, measured, found = rows.predict_seconds(stacks), rows.seconds, []
    for layouts in sweeps(rows):
        times = {indices[0]: float(np.median(measured[indices])) for indices in layouts.values()}
        pick = min(times, key=lambda index: predicted[index])
        found.append(times[pick] / min(times.values()) - 1)
    return found


def left_out(tables: dict[str, Rows], name: str) -> dict[str, Stack]:
    """Stacks for this table, fitted to every table but it: its software's where another table has it, and `typical`."""
    return fit_stacks({table: rows for table, rows in tables.items() if table != name}, only=tables[name].stack)


def with_one_row(rows: Rows, stacks: dict[str, Stack], index: int) -> tuple[dict[str, Stack], np.ndarray]:
    """Calibrate the table's stack with one of its rows: the stacks then, and the rows left to score."""
    start = stacks.get(rows.stack, stacks["typical"])
    calibrated = _fit([Rows([rows.rows[index]])], start)
    return stacks | {rows.stack: calibrated}, np.arange(len(rows.rows)) != index
