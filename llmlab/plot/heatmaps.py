"""A table of numbers as a picture: masks, attention weights, cosines, positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from llmlab.arguments import flag, listing, table
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import three_digits

SIGNED, POSITIVE = "PuOr", "Blues"  # both can be told apart by colour-blind eyes, and in grey
MAX_LABELS = 24  # more would run into each other
Matrix = NDArray[np.float64]


@styled
def grids(
    panels: Mapping[str, ArrayLike],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    xlabel: str = "",
    ylabel: str = "",
    numbers: bool = False,
    limits: tuple[float, float] | None = None,
    figure: Picture | None = None,
) -> Picture:
    """Draw tables {title: [row, column]} side by side, a square per number, all in one scale of colours.

    rows, columns: labels, the same for every table.  numbers: write each number into its square.  limits: of the
    colours; by default 0 and the largest, or, where a number is negative, as far below zero as above.
    """
    panels = table("grids", "panels", panels, "{title: a table of numbers}")
    tables = {title: _table(title, values) for title, values in panels.items()}
    rows, columns = (listing("grids", name, words, "labels") for name, words in (("rows", rows), ("columns", columns)))
    flag("grids", "numbers", numbers)
    low, high = limits or _limits(list(tables.values()))
    height, width = next(iter(tables.values())).shape
    tall = min(6.5, max(2.4, 9 / len(tables) * height / width)) + 0.9
    figure = canvas(figure, (9, tall))
    drawn = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (title, values) in zip(drawn, tables.items(), strict=True):
        colours = SIGNED if low < 0 else POSITIVE
        picture = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        _labels(axes, rows, columns, axes is drawn[0])
        if numbers:
            _write(axes, values, low, high)
    drawn[0].set_ylabel(ylabel)
    figure.colorbar(picture, ax=list(drawn), fraction=0.05, pad=0.02)
    return finish(figure, describe_grids(tables, rows, columns))


def describe_grids(tables: Mapping[str, Matrix], rows: Sequence[str] = (), columns: Sequence[str] = ()) -> str:
    """Say of each table how large it is and where its largest number stands."""
    said = []
    for title, values in tables.items():
        # rounded: of numbers that are equal but for rounding, every machine names the first
        row, column = (int(i) for i in np.unravel_index(np.argmax(values.round(4)), values.shape))
        where = f"row {_name(rows, row)}, column {_name(columns, column)}"
        size = f"{values.shape[0]} x {values.shape[1]}"
        said.append(f"{title or 'a table'}, {size}, largest {three_digits(round(values.max(), 2))} in {where}")
    return f"Tables of numbers as colours: {'; '.join(said)}."


def _table(title: str, values: ArrayLike) -> Matrix:
    table = np.array(values.tolist() if hasattr(values, "tolist") else values, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"{title or 'a table'} wants rows and columns of numbers, got shape {table.shape}")
    return table


def _limits(tables: Sequence[Matrix]) -> tuple[float, float]:
    low = min(np.nanmin(table) for table in tables)
    high = max(np.nanmax(table) for table in tables)
    if low >= 0:
        return 0.0, high or 1.0
    return -max(high, -low), max(high, -low)


def _labels(axes: Axes, rows: Sequence[str], columns: Sequence[str], first: bool) -> None:
    if 0 < len(columns) <= MAX_LABELS:
        steep = max(map(len, columns)) > 2
        turned: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if steep else {}
        axes.set_xticks(range(len(columns)), columns, **turned)
    if not first:
        axes.set_yticks([])
    elif 0 < len(rows) <= MAX_LABELS:
        axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=10)


def _write(axes: Axes, values: Matrix, low: float, high: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * max(abs(low), abs(high))
        shown = three_digits(round(float(value), 2))
        axes.text(column, row, shown, ha="center", va="center", fontsize=9.5, color="white" if dark else "black")


def _name(labels: Sequence[str], i: int) -> str:
    return repr(labels[i]) if i < len(labels) else str(i)
