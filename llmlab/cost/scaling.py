"""How much more ranks can bring: the laws of Amdahl and Gustafson, and the one line under both, fitted to measurements.

    seconds(items, ranks) = fixed_s + item_s x items / ranks

What is fixed is what no rank can take off another: reading, merging, starting. Amdahl 1967, "Validity of the single
processor approach", keeps the items and asks for less time; Gustafson 1988, "Reevaluating Amdahl's law", keeps the time
and asks for more items. Neither counts communication, which grows with the ranks, so both are upper bounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmlab.hardware.measurement import fit_latency_bandwidth


@dataclass(frozen=True)
class Scaling:
    """The line's two numbers: seconds that no rank saves, and seconds for each item."""

    fixed_s: float
    item_s: float

    def seconds(self, items: float, ranks: int = 1) -> float:
        return self.fixed_s + self.item_s * items / ranks

    def serial_share(self, items: float) -> float:
        """The share of one rank's time that stays: Amdahl's f. It falls as the items grow."""
        return self.fixed_s / self.seconds(items)


def fit_scaling(samples: Iterable[tuple[float, int, float]]) -> Scaling:
    """Fit the line to (items, ranks, seconds) by least squares of the relative error; the fixed part is at least 0.

    Raises ValueError unless items / ranks takes two values or more.
    """
    rows = [(1.0, items / ranks, seconds) for items, ranks, seconds in samples]
    if len({per_rank for _, per_rank, _ in rows}) < 2:
        raise ValueError(f"a fixed part and a part per item want two values of items / ranks, got {rows}")
    fixed_s, items_per_s = fit_latency_bandwidth(rows)  # the same line, of other units
    return Scaling(fixed_s, 1 / items_per_s)


def amdahl(serial_share: float, ranks: int) -> float:
    """Speed-up of the same work on more ranks. serial_share: f, of one rank's time; the limit is 1 / f."""
    _check(serial_share, ranks)
    return 1 / (serial_share + (1 - serial_share) / ranks)


def gustafson(serial_share: float, ranks: int) -> float:
    """Scaled speed-up: of as much more work as keeps the time. serial_share: of the time on all ranks."""
    _check(serial_share, ranks)
    return serial_share + (1 - serial_share) * ranks


def _check(serial_share: float, ranks: int) -> None:
    if not 0 <= serial_share <= 1 or not ranks >= 1:
        raise ValueError(f"a speed-up wants 0 <= serial_share <= 1 and ranks >= 1, got {serial_share} and {ranks}")
