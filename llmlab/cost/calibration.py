"""Set a stack's constants by measured steps: a few rows say how fast this software is, many say where it loses time.

Few rows move one number, the pace of all kernels, to their median: which of seven constants is to blame they cannot
tell, and a wrong guess travels to the next layout. From FEW rows on each constant moves, as far as its width, how far
stacks are seen to differ, lets it (Gauss-Newton on logarithms). Rows far from the others' median are set aside by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.arguments import choice, instance, instances, real, string, wholes
from llmlab.cost.arrays import ModelLike, Numbers
from llmlab.cost.models import find_sizes
from llmlab.cost.prediction import A_LAYOUT, RECOMPUTE, predict
from llmlab.cost.sizes import NUMBER_BYTES
from llmlab.cost.stack import CONSTANTS, Stack
from llmlab.cost.stack import stack as find_stack
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster
from llmlab.parallel.layout import Layout

# How far stacks differ: a factor e^width for two in three (congestion: of its own size).
WIDTHS = {"matmul": 0.1, "attention": 0.5, "memory": 0.4, "host": 1.2, "intra": 0.4, "inter": 0.3, "congestion": 0.7}
# A software as a whole is faster or slower: its kernels' rates together, and the host the other way; not the links.
TOGETHER, PACE = np.array([1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0]), 0.25
FEW = 5  # rows; below, one number is fitted
FAR = 3.0  # of the others' usual distance from their median; a row further out is set aside ...
NEAR = 0.15  # ... unless it is as near as this
NOISE = 0.1  # of a measured step, and of what the closed form leaves out
PRIOR_ROWS = 2  # what a stack's spread was before weighs as much as so many rows
LEAST = {"congestion": 0.02}  # where a prior has none, so that it can move


@dataclass(frozen=True)
class Measured:
    """One measured training step: `seconds` of this layout, with the arguments `predict` would take."""

    config: str | ModelLike
    layout: Layout
    seconds: float
    global_batch: int
    seq: int
    precision: str = "bf16"
    recompute: str = "none"

    def __post_init__(self) -> None:
        find_sizes(self.config)
        instance("Measured", "layout", self.layout, Layout, A_LAYOUT)
        real("Measured", "seconds", self.seconds, above=0)
        wholes("Measured", 1, global_batch=self.global_batch, seq=self.seq)
        choice("Measured", "precision", self.precision, NUMBER_BYTES)
        choice("Measured", "recompute", self.recompute, RECOMPUTE)


def calibrate(
    cluster: str | Cluster,
    rows: Measured | Sequence[Measured],
    stack: str | Stack = "typical",
    name: str = "calibrated",
) -> Stack:
    """Fit a stack's constants to measured steps on this cluster, starting from `stack`.

    `fitted_to` of what comes back names the rows that were set aside; `spread` moves towards that of the residuals as
    the rows grow. Raises ValueError without a row.
    """
    rows = [rows] if isinstance(rows, Measured) else instances("calibrate", "rows", rows, Measured, "lab.Measured(...)")
    if not rows:
        raise ValueError("calibrate wants rows as one Measured or more; got none")
    string("calibrate", "name", name)
    on, start = find_cluster(cluster), find_stack(stack)
    start = dataclasses.replace(start.on(on), spread=start.spread_on(on, rows[0].precision))

    def seconds(guess: Stack) -> np.ndarray:
        return np.array([_predict(row, on, guess) for row in rows])

    measured = np.array([row.seconds for row in rows])
    ratios = measured / seconds(start)
    aside = outliers(ratios)
    named = [f"row {i} ({ratios[i] / np.median(ratios):.2g} times as long as the others say)" for i in aside]
    text = f"{len(rows)} measured rows" + (f"; set aside: {', '.join(named)}" if named else "")
    kept = np.setdiff1d(np.arange(len(rows)), aside)
    found = refine(lambda guess: seconds(guess)[kept], measured[kept], start)
    return dataclasses.replace(found, name=name, fitted_to=text)


def outliers(ratios: np.ndarray) -> list[int]:
    """Which of some steps, measured over predicted, are far from the median of all; of fewer than three, none."""
    far = np.abs(np.log(ratios / np.median(ratios)))
    usual = 1.4826 * np.median(far)  # sigma, where they are normal
    return [] if len(ratios) < 3 else [int(i) for i in np.flatnonzero(far > max(FAR * usual, NEAR))]


def refine(seconds: Callable[[Stack], np.ndarray], measured: np.ndarray, start: Stack) -> Stack:
    """The start's constants, moved by what was measured: their pace alone by few rows, each by many."""
    return fit(seconds, measured, start, together=len(measured) < FEW)


def _predict(row: Measured, cluster: str | Cluster, stack: Stack) -> float:
    return predict(
        row.config, row.layout, cluster, global_batch=row.global_batch, seq=row.seq, precision=row.precision,
        recompute=row.recompute, stack=stack,
    ).seconds  # fmt: skip


def fit(
    seconds: Callable[[Stack], np.ndarray],
    measured: np.ndarray,
    start: Stack,
    weights: Numbers = 1.0,
    rounds: int = 12,
    together: bool = False,
) -> Stack:
    """Find the most probable constants: `seconds(stack)` predicts what was `measured`; `weights` count rows.

    What is sought are logarithms: how far each constant is from `start`'s (not if `together`), and how far all of them
    are together.
    """
    prior = np.log([max(getattr(start, constant), LEAST.get(constant, 0.0)) for constant in CONSTANTS])
    width = np.array([*(WIDTHS[constant] for constant in CONSTANTS), PACE])
    root = np.sqrt(np.broadcast_to(weights, measured.shape)) / NOISE

    def stack_at(point: np.ndarray) -> Stack:
        factors = np.exp(prior + point[-1] * TOGETHER + (0.0 if together else point[:-1]))
        constants: dict[str, Any] = dict(zip(CONSTANTS, map(float, factors), strict=True))
        if together:
            constants["congestion"] = start.congestion
        return dataclasses.replace(start, **constants)

    def misses(point: np.ndarray) -> np.ndarray:
        data = root * tame(np.log(seconds(stack_at(point)) / measured))
        return np.concatenate([data, point / width])

    free = [len(width) - 1] if together else list(range(len(width)))

    def of_free(point: np.ndarray) -> np.ndarray:
        whole = np.zeros(len(width))
        whole[free] = point
        return misses(whole)

    best = np.zeros(len(width))
    best[free] = _least_squares(of_free, np.zeros(len(free)), rounds)
    found = stack_at(best)
    left = np.log(measured / seconds(found))
    return dataclasses.replace(found, spread=residual_spread(left, start.spread, weights))


def _least_squares(misses: Callable[[np.ndarray], np.ndarray], point: np.ndarray, rounds: int) -> np.ndarray:
    """The point of the least squares, by Levenberg's and Marquardt's damped steps and numeric slopes."""
    now, damping, h = misses(point), 1e-3, 1e-4
    for _ in range(rounds):
        slopes = np.stack([(misses(point + h * unit) - now) / h for unit in np.eye(len(point))], axis=1)
        normal = slopes.T @ slopes
        move = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slopes.T @ now)
        moved = misses(point + move)
        gain = now @ now - moved @ moved
        if gain > 0:
            point, now, damping = point + move, moved, damping / 4
            if gain < 1e-3 * (now @ now):
                break
        else:
            damping *= 8
    return point


def tame(misses: np.ndarray) -> np.ndarray:
    """Let rows that no constant explains pull less: the square root of Charbonnier's loss, straight beyond 0.2."""
    return np.sign(misses) * 0.2 * np.sqrt(2 * (np.sqrt(1 + (misses / 0.2) ** 2) - 1))


def residual_spread(misses: np.ndarray, before: float, weights: Numbers = 1.0) -> float:
    """What nine in ten residuals, weighed, stay below; what was known before counts as PRIOR_ROWS of them."""
    if not len(misses):
        return before
    order = np.argsort(np.abs(misses))
    below = np.cumsum(np.broadcast_to(weights, misses.shape)[order])
    nine_in_ten = np.abs(misses)[order][np.searchsorted(below, 0.9 * below[-1])]
    return float(np.sqrt((below[-1] * nine_in_ten**2 + PRIOR_ROWS * before**2) / (below[-1] + PRIOR_ROWS)))
