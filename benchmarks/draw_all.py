"""Draw the table of run_all.py: how many times as fast as its opponent each row was, with quartiles.

python benchmarks/draw_all.py [--png data/pictures/speeds.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from run_all import Row, read

PICTURE = Path(__file__).parents[1] / "data" / "pictures" / "speeds.png"


def draw(rows: Sequence[Row]) -> Figure:
    """A line a row, on a logarithmic axis; right of 1 ours was faster."""
    compared = [row for row in rows if row.opponent][::-1]
    figure = Figure((11, 1.2 + 0.26 * len(compared)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(compared):
        times, low, high = (float(value) for value in (row.times_as_fast, row.low, row.high))
        color = "tab:blue" if times >= 1 else "tab:orange"
        axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot(times, place, "o", color=color, markersize=5)
        axes.annotate(row.times_as_fast, (high, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(right=2 * axes.get_xlim()[1])  # room for the last figure
    axes.set_ylim(-0.7, len(compared) - 0.3)
    axes.set_yticks(range(len(compared)), [f"{row.what}, beside {row.opponent}" for row in compared], fontsize=8)
    axes.set_xlabel("times as fast as the opponent (measured, wall clock; median and quartiles of pairs)")
    axes.grid(axis="x", alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, default=PICTURE)
    options = parser.parse_args()
    draw(read()).savefig(options.png, dpi=110)
    print(f"drawn in {options.png}")


if __name__ == "__main__":
    main()
