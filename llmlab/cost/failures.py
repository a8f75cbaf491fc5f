"""How often to save: too seldom, and a failure costs much work; too often, and saving costs more than failures.

    wall / work = M / tau  e^(R / M)  (e^((tau + delta) / M) - 1)          Daly 2006, equation 20
    best tau   ~= sqrt(2 delta M)                                          Young 1974
    best tau   ~= sqrt(2 delta M) (1 + x / 3 + x^2 / 9) - delta            Daly 2006, x = sqrt(delta / (2 M))

tau: seconds of work between two saves.  delta: a save takes.  R: a restart takes.  M: the mean time between failures
of the whole machine, which fail independently, at any moment alike. Of n devices it is a device's own, by n.
"""

from __future__ import annotations

from math import exp, expm1, sqrt
from random import Random

from llmlab.arguments import real, whole


def time_lost(interval_s: float, save_s: float, mtbf_s: float, restart_s: float = 0.0) -> float:
    """Compute the share of the work that saves, failures and restarts add to it: 0.1 for a tenth."""
    _check("time_lost", interval_s, save_s, mtbf_s, restart_s)
    exponent = (interval_s + save_s) / mtbf_s
    if exponent > 700:  # no work of this length ever comes to its end
        return float("inf")
    return mtbf_s / interval_s * exp(restart_s / mtbf_s) * expm1(exponent) - 1


def young(save_s: float, mtbf_s: float) -> float:
    """Compute the seconds of work between two saves that lose least, to first order."""
    _check("young", 1.0, save_s, mtbf_s, 0.0)
    return sqrt(2 * save_s * mtbf_s)


def daly(save_s: float, mtbf_s: float) -> float:
    """Compute the same where failures are not rare beside saves; the mean time itself where they come faster."""
    _check("daly", 1.0, save_s, mtbf_s, 0.0)
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    x = sqrt(save_s / (2 * mtbf_s))
    return sqrt(2 * save_s * mtbf_s) * (1 + x / 3 + x * x / 9) - save_s


def draw_time_lost(
    interval_s: float, save_s: float, mtbf_s: float, restart_s: float = 0.0, *, saves: int = 1000, seed: int = 0
) -> float:
    """Draw failures from a seed and live through so many saves: the share of the work that was lost, this time.

    Time between failures is drawn from an exponential distribution; a restart can fail as well, a save too.
    """
    _check("draw_time_lost", interval_s, save_s, mtbf_s, restart_s)
    whole("draw_time_lost", "saves", saves, least=1)
    dice, wall, done = Random(seed), 0.0, 0
    fails = dice.expovariate(1 / mtbf_s)
    left = interval_s + save_s
    while done < saves:
        if wall + left <= fails:
            wall, done, left = wall + left, done + 1, interval_s + save_s
            continue
        wall = fails
        fails = wall + dice.expovariate(1 / mtbf_s)
        left = restart_s + interval_s + save_s
    return wall / (saves * interval_s) - 1


def _check(call: str, interval_s: float, save_s: float, mtbf_s: float, restart_s: float) -> None:
    for name, value in (("interval_s", interval_s), ("save_s", save_s), ("mtbf_s", mtbf_s)):
        real(call, name, value, above=0)
    real(call, "restart_s", restart_s, least=0)
