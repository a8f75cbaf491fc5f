"""Predictions beside what others measured: step by step, and the error of each table beside the constant's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from llmlab.arguments import listing as listing_
from llmlab.arguments import numbers, table
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import (
    BLACK,
    DOTTED,
    GREY,
    LINE_COLOURS,
    MARKERS,
    SOLID,
    listing,
    say_seconds,
)  # fmt: skip

Pairs = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> measured seconds, modelled seconds
Errors = Mapping[str, Mapping[str, float]]  # what was scored -> table -> error as a share
FACTOR = 1.25  # the outer lines: off by a quarter


@styled
def parity(pairs: Pairs, *, note: str = "", figure: Picture | None = None) -> Picture:
    """Draw modelled against measured seconds of steps, {name: (measured, modelled)}: both axes logarithmic.

    Each mark compares two numbers, so it is neither; the axes say which is which. A perfect prediction is on the solid
    line, one that is off by a quarter on a dotted one.
    """
    for name, pair in table("parity", "pairs", pairs, "{name: (measured, modelled)}").items():
        sizes = [len(numbers("parity", name, seconds)) for seconds in listing_("parity", name, pair)]
        if len(sizes) != 2 or sizes[0] != sizes[1] or not sizes[0]:
            raise ValueError(f"parity wants {name} as as many measured as modelled seconds, one or more; got {sizes}")
    figure = canvas(figure, (9, 6.2))
    axes = figure.subplots()
    both = np.concatenate([np.concatenate(pair) for pair in pairs.values()])
    ends = np.array([both.min() / 1.5, both.max() * 1.5])
    axes.plot(ends, ends, color=BLACK, linewidth=1.2, linestyle=SOLID, label="modelled = measured")
    for factor, label in ((FACTOR, "off by a quarter"), (1 / FACTOR, None)):
        axes.plot(ends, ends * factor, color=GREY, linewidth=1.2, linestyle=DOTTED, label=label)
    for i, (name, (measured, modelled)) in enumerate(pairs.items()):
        colour, marker = LINE_COLOURS[i % len(LINE_COLOURS)], MARKERS[(i + i // len(LINE_COLOURS)) % len(MARKERS)]
        axes.plot(
            measured, modelled, linestyle="none", marker=marker, color=colour, markersize=5, alpha=0.55,
            label=f"{name} ({len(measured):,})",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="measured, by others: time of a step", ylabel="modelled: time of a step"
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: say_seconds(value))
    axes.grid()
    figure.legend(loc="outside right center", fontsize=10, title="modelled against measured", handlelength=1.4)
    return finish(figure, describe_parity(pairs), note)


def describe_parity(pairs: Pairs) -> str:
    """Say how many steps of whom are compared; how well they agree depends on constants that are fitted anew."""
    said = [f"{name} {len(measured):,}" for name, (measured, _) in pairs.items()]
    count = sum(len(measured) for measured, _ in pairs.values())
    return f"Modelled against measured time of {count:,} published steps, around the line of equality: {listing(said)}."


@styled
def errors(scored: Errors, *, constant: str = "constant", note: str = "", figure: Picture | None = None) -> Picture:
    """Draw {what was scored: {table: error}}, a line of marks for each table; `constant` is the yardstick.

    A mark to the right of the yardstick's says less than the constant does.
    """
    for name, by_table in table("errors", "scored", scored, "{name: {table: error}}").items():
        numbers("errors", name, table("errors", name, by_table, "{table: error}").values())
    if constant not in scored or any(set(by_table) != set(scored[constant]) for by_table in scored.values()):
        raise ValueError(
            f"errors wants {constant!r} among the scored, and all of them of the same tables; got {list(scored)}"
        )
    tables = list(scored[constant])
    figure = canvas(figure, (9, 1.6 + 0.31 * len(tables)))
    axes = figure.subplots()
    for y, name in enumerate(tables):
        axes.plot([0, scored[constant][name]], [y, y], color="#D0D0D0", linewidth=6, solid_capstyle="butt", zorder=1)
    axes.plot([], [], color="#D0D0D0", linewidth=6, label=f"{constant}: to here, no skill")
    for i, (name, by_table) in enumerate(item for item in scored.items() if item[0] != constant):
        axes.plot(
            [by_table[each] for each in tables], range(len(tables)), linestyle="none", marker=MARKERS[i],
            color=LINE_COLOURS[i], markersize=8, label=name, zorder=2 + i,
        )  # fmt: skip
    axes.set_yticks(range(len(tables)), tables, fontsize=10)
    axes.set_ylim(len(tables) - 0.4, -0.6)
    axes.set_xlim(0, None)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("error: mean |modelled / measured - 1|")
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=4, fontsize=11, handlelength=1.6, columnspacing=1.4)
    return finish(figure, describe_errors(scored, constant), note)


def describe_errors(scored: Errors, constant: str = "constant") -> str:
    """Say what is compared; the numbers depend on constants that are fitted anew."""
    names = listing([name for name in scored if name != constant])
    return f"Error of {names} beside that of the constant on {len(scored[constant])} published tables."
