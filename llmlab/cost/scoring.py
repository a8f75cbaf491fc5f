"""Hold the closed form against what others measured: fit the owners' constants, with any table left out, and score.

Every number says which rows its constants had seen.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from llmlab.cost import fitting
from llmlab.cost.calibration import refine
from llmlab.cost.fitting import Widths, fit, residuals, stacks_of
from llmlab.cost.ownership import WIDTHS, Owners
from llmlab.cost.prediction import MARGIN
from llmlab.cost.published import PublishedRow, Rows, read_rows, row_stack
from llmlab.cost.stack import Stack

FILES = (
    "megatron2021", "korthikanti2022", "zero_bubble", "llm_foundry", "vtrain_multi", "vtrain_single", "bloom_prequel",
    "internevo", "dgxc_recipes", "megatron_bridge", "maxtext_tpu_and_fms", "torchtitan", "nemo", "nanotron_playbook",
)  # fmt: skip
ROWS_READ = 100  # of a table, in fits: its others say the same


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


def fit_owners(
    tables: Mapping[str, Rows], start: Owners | None = None, rounds: int = 12, widths: Widths = WIDTHS
) -> Owners:
    """Fit every owner's constants to these tables; of a long one, rows evenly spaced."""
    return fit({name: _thinned(rows) for name, rows in tables.items()}, start, rounds, widths)


def leave_out(tables: Mapping[str, Rows], owners: Owners, widths: Widths = WIDTHS) -> dict[str, Owners]:
    """The same constants without each table in its turn, to first order; see `cost.fitting.leave_out`."""
    return fitting.leave_out({name: _thinned(rows) for name, rows in tables.items()}, owners, widths)


def _thinned(rows: Rows) -> Rows:
    n = len(rows.rows)
    if n <= ROWS_READ:
        return rows
    return Rows([rows.rows[i] for i in np.unique(np.linspace(0, n - 1, ROWS_READ).astype(int))])


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


def verdicts(stack: Stack, every: bool = False) -> float:
    """Share of nanotron's trials whose end is predicted: those that ran fit, and those that failed do not.

    A pipeline with a stage of nothing is refused. Of trials that failed though one that needs no less ran (see
    `failed_otherwise`) memory was not the reason: they count only with `every`.
    """
    rows = Rows([row for row in read_rows("nanotron_playbook")[0] if row.score])
    found = rows.predictions({"typical": stack})
    device = rows.rows[0].cluster.device.memory_bytes
    fits = rows.gather(found, "memory_bytes") <= MARGIN * device
    possible = np.zeros(len(rows.rows), bool)
    for indices, x in rows.groups:
        possible[indices] = x.empty_stages == 0
    right = (fits & possible) == np.array([row.ran for row in rows.rows])
    return float(right[every | ~failed_otherwise(rows)].mean())


def failed_otherwise(rows: Rows) -> np.ndarray:
    """Which failed trials cannot have run out of memory: one that needs no less ran.

    That is of the same model, sequence, tp, pp and ZeRO, with as large micro-batches, as many of them under way, and no
    more replicas to shard over. No formula is in it.
    """
    ran: dict[Hashable, list[tuple[int, int, int]]] = defaultdict(list)

    def needs(row: PublishedRow) -> tuple[Hashable, tuple[int, int, int]]:
        layout = row.layout
        same = (*row.config.values(), row.seq, layout["tp"], layout["pp"], layout["zero"])
        under_way = min(layout["microbatches"], layout["pp"])
        return same, (row.micro_batch, under_way, -layout["dp"] if layout["zero"] else 0)

    for row in rows.rows:
        if row.ran:
            same, size = needs(row)
            ran[same].append(size)
    found = []
    for row in rows.rows:
        same, size = needs(row)
        more = (other for other in ran[same] if all(a >= b for a, b in zip(other, size, strict=True)))
        found.append(not row.ran and any(more))
    return np.array(found)


def _gib(rows: Rows, stack: Stack) -> np.ndarray:
    return rows.gather(rows.predictions({"typical": stack}), "memory_bytes") / 2**30


@dataclass(frozen=True)
class Score:
    """How far predictions are from what was measured, as shares of it. `inside`: share of rows in the 90% interval.

    Two yardsticks, both a constant share of peak: `own` is the table's median, which has seen the answers; `given` the
    median of rows that one could have known.
    """

    rows: int
    error: float  # mean |predicted / measured - 1|
    bias: float
    p90: float
    own: float
    given: float
    inside: float

    @property
    def skill(self) -> float:
        """1: no error; 0: no better than the given constant."""
        return 1 - self.error / self.given


@dataclass(frozen=True)
class Judged:
    """Each row of a table: predicted over measured, the share of peak it reached, and half of its interval."""

    rows: Rows
    ratios: np.ndarray
    reached: np.ndarray
    spreads: np.ndarray

    def score(self, given: float, only: slice | np.ndarray = slice(None)) -> Score:
        """Score the rows, or `only` some of them. `given`: share of peak of rows that one could have known."""
        misses, reached = (self.ratios - 1)[only], self.reached
        return Score(
            rows=len(misses),
            error=float(np.abs(misses).mean()),
            bias=float(misses.mean()),
            p90=float(np.quantile(np.abs(misses), 0.9)),
            own=float(np.abs(reached / np.median(reached) - 1)[only].mean()),
            given=float(np.abs(reached / given - 1)[only].mean()),
            inside=float((np.abs(np.log(self.ratios)) <= self.spreads)[only].mean()),
        )


def judge(rows: Rows, stacks: Mapping[str, Stack], without: tuple[str, ...] = ()) -> Judged:
    """Predict a table's rows with these stacks; a software not among them is `typical`."""
    found = rows.predictions(stacks, without)
    ratios = rows.gather(found, "seconds") / rows.seconds
    return Judged(rows, ratios, rows.reached(found), rows.gather(found, "spread"))


def score(
    rows: Rows,
    stacks: Mapping[str, Stack],
    without: tuple[str, ...] = (),
    only: slice | np.ndarray = slice(None),
    given: float = 0.45,
) -> Score:
    """Judge a table's rows and score them, or `only` some of them. `given`: see `given_constant`."""
    return judge(rows, stacks, without).score(given, only)


def given_constant(tables: Mapping[str, Rows], name: str = "") -> float:
    """The median share of peak that the rows of all tables but this one reached: the second yardstick."""
    reached = [rows.shares for table, rows in tables.items() if table != name]
    return float(np.median(np.concatenate(reached)))


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
    return _regrets(sweeps(rows), rows.seconds, rows.predict_seconds(stacks))


def regrets_of_errors(rows: Rows, sigma: float, draws: int = 20) -> list[float]:
    """What choosing costs where predictions are the measured seconds times e^(sigma z): of several draws.

    z is drawn for each shape of kernels (a model's width, tp, pp, a micro-batch) and shared by the rows that have it,
    as a closed form's errors mostly are; but it leans to no layout, as theirs may.
    """
    shapes = [(row.config["d_model"], row.layout["tp"], row.layout["pp"], row.micro_batch) for row in rows.rows]
    _, place = np.unique(np.array(shapes, float), axis=0, return_inverse=True)
    dice, groups, found = np.random.default_rng(0), sweeps(rows), []
    for _ in range(draws):
        errors = dice.standard_normal(place.max() + 1)[place.reshape(-1)]
        found += _regrets(groups, rows.seconds, rows.seconds * np.exp(sigma * errors))
    return found


def _regrets(groups: list[dict[Hashable, list[int]]], measured: np.ndarray, predicted: np.ndarray) -> list[float]:
    found = []
    for layouts in groups:
        times = {indices[0]: float(np.median(measured[indices])) for indices in layouts.values()}
        pick = min(times, key=lambda index: predicted[index])
        found.append(times[pick] / min(times.values()) - 1)
    return found


def left_out(tables: Mapping[str, Rows], name: str, start: Owners | None = None) -> dict[str, Stack]:
    """Stacks for this table, with constants fitted to every table but it. `start`: theirs to first order, one more
    round from there (see `leave_out`)."""
    others = {table: rows for table, rows in tables.items() if table != name}
    owners = fit_owners(others, start, rounds=12 if start is None else 1)
    return stacks_of(owners, others, residuals(owners, others))


def with_one_row(rows: Rows, stacks: Mapping[str, Stack], index: int) -> tuple[dict[str, Stack], np.ndarray]:
    """Calibrate the table's stack with one of its rows: the stacks then, and the rows left to score."""
    row = rows.rows[index]
    start = row_stack(row, stacks)
    start = dataclasses.replace(start.on(row.cluster), spread=start.spread_on(row.cluster, row.precision))
    alone = Rows([row])
    calibrated = refine(lambda guess: alone.predict_seconds({"typical": guess}), alone.seconds, start)
    return {**stacks, rows.stack: calibrated}, np.arange(len(rows.rows)) != index
