"""How much more ranks can bring: the laws of Amdahl and Gustafson, and the one line under both, fitted to measurements.

    seconds(items, ranks) = fixed_s + item_s x items / ranks

What is fixed is what no rank can take off another: reading, merging, starting. Amdahl 1967, "Validity of the single
processor approach", keeps the items and asks for less time; Gustafson 1988, "Reevaluating Amdahl's law", keeps the time
and asks for more items. Neither counts communication that grows with the ranks. A line fitted to a few ranks bounds
nothing: it promises too much where a merge grows faster than it did there, and too little where one grows more slowly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmlab.arguments import listing, real, reals, whole
from llmlab.hardware.measurement import fit_latency_bandwidth


@dataclass(frozen=True)
class Scaling:
    """The line's two numbers: seconds that no rank saves, and seconds for each item."""

    fixed_s: float
    item_s: float

    def __post_init__(self) -> None:
        reals("Scaling", 0, fixed_s=self.fixed_s, item_s=self.item_s)

    def seconds(self, items: float, ranks: int = 1) -> float:
        return self.fixed_s + self.item_s * real("seconds", "items", items, least=0) / whole(
            "seconds", "ranks", ranks, 1
        )

    def serial_share(self, items: float) -> float:
        """The share of one rank's time that stays: Amdahl's f. It falls as the items grow."""
        return self.fixed_s / self.seconds(items)


def fit_scaling(samples: Iterable[tuple[float, int, float]]) -> Scaling:
    """Fit the line to (items, ranks, seconds) by least squares of the relative error; the fixed part is at least 0.

    Raises ValueError unless items / ranks takes two values or more.
    """
    rows = [_per_rank(sample) for sample in listing("fit_scaling", "samples", samples, "(items, ranks, seconds)")]
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
    real("a speed-up", "serial_share", serial_share, least=0, most=1)
    real("a speed-up", "ranks", ranks, least=1, infinite=True)


def _per_rank(sample: tuple[float, int, float]) -> tuple[float, float, float]:
    """(1, items / ranks, seconds): what the line is fitted to."""
    if not isinstance(sample, (tuple, list)) or len(sample) != 3:
        raise ValueError(f"fit_scaling wants samples of (items, ranks, seconds); got {sample!r}")
    items, ranks, seconds = sample
    real("fit_scaling", "items", items, least=0)
    real("fit_scaling", "seconds", seconds, above=0)
    return 1.0, items / whole("fit_scaling", "ranks", ranks, 1), seconds
