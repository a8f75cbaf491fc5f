"""Ways down a surface of two parameters: the surface as contour lines, each path with its steps, and its heights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llmlab.arguments import function, listing, numbers, table
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import GREY, line_style, three_digits

Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]  # heights at (x, y)
Path = Sequence[Sequence[float]]  # the points stepped on, the start first
Box = tuple[tuple[float, float], tuple[float, float]]  # what is drawn of x and of y

GRID, CONTOURS = 121, 14
LONG = 2.0  # a box longer than that for its height is drawn stretched, and once more to scale


@styled
def descent(surface: Surface, paths: Mapping[str, Path], box: Box, figure: Picture | None = None) -> Picture:
    """Draw {name: path} over the contours of a surface and, beside it, the height at every step.

    A path that leaves the box goes on unseen; one whose height is no longer finite ends. A long box is drawn stretched,
    so that the paths can be told apart, and above it once more as it is.
    """
    function("descent", "surface", surface, "x, y")
    for name, path in table("descent", "paths", paths, "{name: points}").items():
        points = [numbers("descent", f"the points of {name}", point) for point in listing("descent", name, path)]
        if not points or any(len(point) != 2 for point in points):
            raise ValueError(f"descent wants {name} as at least one point (x, y), its start; got {path!r}")
    if [len(numbers("descent", "box", ends)) for ends in listing("descent", "box", box)] != [2, 2]:
        raise ValueError(f"descent wants box as ((left, right), (bottom, top)); got {box!r}")
    figure = canvas(figure, (10, 4.6))
    (left, right), (bottom, top) = box
    long = right - left > LONG * (top - bottom)
    panels: list[Any] = [["to scale", "fall"], ["plane", "fall"]] if long else [["plane", "fall"]]
    axes = figure.subplot_mosaic(panels, width_ratios=(1.25, 1), height_ratios=(1, 3) if long else None)
    plane, fall = axes["plane"], axes["fall"]
    _contours(plane, surface, box)
    plane.set_xlabel("first parameter")
    plane.set_ylabel("second parameter")
    if long:
        _to_scale(axes["to scale"], surface, box, next(iter(paths.values())))
    for i, (name, path) in enumerate(paths.items()):
        style = {**line_style(i), "markersize": 3.5, "linewidth": 1.6}
        plane.plot(*np.clip(np.transpose(path), -1e6, 1e6), **style)
        fall.plot(range(len(path)), [max(height, 1e-12) for height in heights(surface, path)], label=name, **style)
    plane.plot(*next(iter(paths.values()))[0], "*", color="black", markersize=13)
    fall.set_yscale("log")
    fall.set_xlabel("step")
    fall.set_ylabel("height (the loss)")
    fall.grid()
    fall.legend(fontsize=11)
    more = " Above: the same ground to scale, with the first path." if long else ""
    return finish(figure, describe_descent(surface, paths), f"The star: where all begin.{more}")


def _to_scale(axes: Axes, surface: Surface, box: Box, path: Path) -> None:
    """Draw a long box with one unit as long across as along, which shows how narrow it is."""
    _contours(axes, surface, box)
    axes.set_aspect("equal")
    axes.plot(*np.clip(np.transpose(path), -1e6, 1e6), **{**line_style(0), "markersize": 1.5, "linewidth": 0.8})
    axes.set_xticks([])
    axes.set_yticks([])


def _contours(axes: Axes, surface: Surface, box: Box) -> None:
    """Draw the levels close together near the ground, where the paths are."""
    x, y = np.meshgrid(*(np.linspace(*side, GRID) for side in box))
    z = surface(x, y)
    levels = z.min() + (z.max() - z.min()) * np.linspace(0, 1, CONTOURS) ** 3
    axes.contour(x, y, z, levels=levels[1:], colors=GREY, linewidths=0.7)
    axes.set_xlim(box[0])
    axes.set_ylim(box[1])


def heights(surface: Surface, path: Path) -> list[float]:
    """Give the height of each point; inf where it is no number any more."""
    with np.errstate(over="ignore", invalid="ignore"):  # a path that leaves ends beyond all numbers
        found = surface(*np.transpose(path))
    return [float(height) if isfinite(height) else inf for height in found]


def describe_descent(surface: Surface, paths: Mapping[str, Path]) -> str:
    """Say how far down each path came, or that it left."""
    said = []
    for name, path in paths.items():
        found = heights(surface, path)
        if found[-1] > 10 * max(found[0], 1e-12):
            said.append(f"{name} leaves: from {three_digits(found[0])} it climbs above ten times as much")
        else:
            said.append(f"{name} from {three_digits(found[0])} to {three_digits(max(found[-1], 1e-6))}")
    steps = max(len(path) for path in paths.values()) - 1
    return f"Height after {steps} steps: {'; '.join(said)}."
