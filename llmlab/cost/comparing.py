"""How well predicted layouts can be told apart, and what to measure to tell them better.

A step's seconds are a sum of terms, each as uncertain as the constant behind it (`calibration.WIDTHS`): to first order
ln t moves by a term's share of t for each part of its constant. Layouts run on the same software, so between two of
them the error of what both do alike cancels, and what only one of them does stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlab.cost.arrays import Numbers
from llmlab.cost.calibration import WIDTHS
from llmlab.cost.explaining import LOOK, STAGES
from llmlab.cost.prediction import Prediction

BALANCE = "balance"  # of a pipeline's stages: behind the bubble is no constant of the software
WIDTH = WIDTHS | {BALANCE: STAGES}
NINE_IN_TEN = 1.645  # sigmas, either side


@dataclass(frozen=True)
class Measurement:
    """What to measure next. `decides`: its share of what is uncertain between the first layouts of a plan."""

    terms: tuple[str, ...]
    decides: float
    how: str

    def __str__(self) -> str:
        return f"{self.how} (decides {self.decides:.0%}: {', '.join(self.terms)})"


def exposure(p: Prediction[Numbers] | Prediction[float]) -> np.ndarray:
    """Share of each step that follows each constant of `WIDTH`: [constants, layouts]."""
    names, total = list(WIDTH), np.atleast_1d(p.seconds)
    found = np.zeros((len(names), len(total)))
    for cause, seconds in p.breakdown.items():
        found[names.index(LOOK[cause][0] or BALANCE)] += seconds / total
    return found


def doubt(exposed: np.ndarray) -> np.ndarray:
    """One sigma of each step's logarithm: [layouts]."""
    return _norm(exposed)


def apart(exposed: np.ndarray, i: int) -> np.ndarray:
    """One sigma of the logarithm of each step over the i-th: what both do alike cancels."""
    return _norm(exposed - exposed[:, i : i + 1])


def tied(seconds: np.ndarray, exposed: np.ndarray) -> np.ndarray:
    """Which steps cannot be told from the first: nine times in ten their difference is less than its error."""
    return np.abs(np.log(seconds / seconds[0])) <= NINE_IN_TEN * apart(exposed, 0)


def measurements(predictions: Sequence[Prediction[float]], most: int = 2) -> list[Measurement]:
    """What would tell the first of some layouts from the others best: constants by their share of the variance."""
    exposed = np.concatenate([exposure(p) for p in predictions], axis=1)
    variance = np.array([width**2 for width in WIDTH.values()]) * ((exposed - exposed[:, :1]) ** 2).sum(1)
    found = []
    for at in np.argsort(-variance)[:most]:
        if variance[at] == 0:
            break
        causes = [cause for cause in LOOK if (LOOK[cause][0] or BALANCE) == list(WIDTH)[at]]
        # of the causes that follow it the one that differs most says how it is measured
        gap = {cause: _gap(predictions, cause) for cause in causes}
        moving = sorted((cause for cause in causes if gap[cause] > 0), key=lambda cause: -gap[cause])
        found.append(Measurement(tuple(moving), float(variance[at] / variance.sum()), LOOK[moving[0]][1]))
    return found


def _gap(predictions: Sequence[Prediction[float]], cause: str) -> float:
    """How far a term's share of the step is from the first one's, summed."""
    shares = [p.breakdown.get(cause, 0.0) / p.seconds for p in predictions]
    return sum(abs(share - shares[0]) for share in shares)


def _norm(exposed: np.ndarray) -> np.ndarray:
    widths = np.array(list(WIDTH.values()))[:, None]
    return np.sqrt(((widths * exposed) ** 2).sum(0))
