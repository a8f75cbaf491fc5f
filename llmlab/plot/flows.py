"""Boxes and arrows: the parts that drawings of a model are made of."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path

from llmlab.plot.style import GREY, text_on


@dataclass(frozen=True)
class Box:
    """Words in a box around (x, y), in the units of the drawing."""

    x: float
    y: float
    text: str
    colour: str
    width: float = 4.0
    height: float = 0.7

    @property
    def top(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x, self.y - self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def left(self) -> tuple[float, float]:
        return self.x - self.width / 2, self.y


def draw_box(axes: Axes, box: Box) -> None:
    """Draw a box with its words."""
    corner, style = (box.x - box.width / 2, box.y - box.height / 2), "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch(corner, box.width, box.height, style, facecolor=box.colour, edgecolor=GREY, label=box.text)
    )
    axes.text(box.x, box.y, box.text, ha="center", va="center", fontsize=11.5, color=text_on(box.colour))


def draw_plus(axes: Axes, x: float, y: float) -> None:
    """Draw where two streams are added."""
    axes.text(x, y, "+", ha="center", va="center", fontsize=13, bbox={"boxstyle": "circle,pad=0.15", "fc": "white"})


def draw_arrow(axes: Axes, *points: tuple[float, float], colour: str = "black") -> None:
    """Draw a line along the points, with a head at the last."""
    if len(points) > 2:
        axes.add_patch(PathPatch(Path(points[:-1]), fill=False, edgecolor=colour, linewidth=1.4))
    ends = points[-2:]
    axes.add_patch(
        FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=13, color=colour, linewidth=1.4, shrinkA=0, shrinkB=0)
    )


def bare(axes: Axes, left: float, right: float, bottom: float, top: float) -> None:
    """Set the drawing's corners, and take away what belongs to a graph."""
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.axis("off")
