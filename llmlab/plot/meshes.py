"""The ranks of a layout, once for every axis: who is in a group with whom, and what they say to each other."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from llmlab.arguments import instance
from llmlab.parallel.layout import Layout
from llmlab.plot.flows import bare
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import fill_style, text_on

# axes from the outermost to the one whose ranks are neighbours, with what travels along them
TALK = {
    "pp": "activations to the next stage",
    "dp": "gradients, once a step",
    "cp": "keys and values, every layer; gradients, with dp",
    "tp": "activations, every layer",
}
MOST = 32  # ranks that can still be read


@styled
def mesh(layout: Layout, figure: Picture | None = None) -> Picture:
    """Draw the ranks once for each axis longer than one; ranks of one look talk to each other along it."""
    families = groups(layout)
    figure = canvas(figure, (9, 1.6 * len(families) + 0.3))
    drawn = figure.subplots(len(families), 1, squeeze=False)[:, 0]
    for axes, (name, members) in zip(drawn, families.items(), strict=True):
        axes.set_title(f"{name} = {getattr(layout, name)}: {TALK[name]}", loc="left")
        _draw(axes, members, layout.tp)
    return finish(figure, describe_mesh(layout))


def groups(layout: Layout) -> dict[str, list[list[int]]]:
    """Give the groups of ranks along each axis longer than one. Raises ValueError for a layout of one or too many."""
    ranks = instance("mesh", "layout", layout, Layout).ranks
    if not 1 < ranks <= MOST:
        raise ValueError(f"mesh wants a layout of 2 to {MOST} ranks, got {ranks}")
    families, stride = {}, ranks
    for name in TALK:
        size = getattr(layout, name)
        stride //= size  # ranks that differ in this axis only are so far apart
        firsts = [rank for rank in range(ranks) if rank // stride % size == 0]
        if size > 1:
            families[name] = [[first + i * stride for i in range(size)] for first in firsts]
    return families


def describe_mesh(layout: Layout) -> str:
    """Say which ranks are together along each axis."""
    said = [
        f"along {name} {', '.join('-'.join(map(str, group)) for group in members)} ({TALK[name]})"
        for name, members in groups(layout).items()
    ]
    return f"{layout.ranks} ranks in groups: {'; '.join(said)}."


def _draw(axes: Axes, members: list[list[int]], tp: int) -> None:
    """Draw all ranks in a row, a gap after every tensor-parallel group; a look and a letter for each group."""
    right = 0.0
    for number, group in enumerate(members):
        for rank in group:
            x, style = rank + 0.35 * (rank // tp), fill_style(number)
            colour = style["facecolor"]
            axes.add_patch(Rectangle((x, 0), 0.92, 0.8, label=f"group {number}", **style))
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            axes.text(x + 0.46, 0.4, str(rank), ha="center", va="center", color=text_on(colour), bbox=box, fontsize=11)
            letter = chr(ord("a") + number) if number < 26 else f"a{chr(ord('a') + number - 26)}"
            axes.text(x + 0.46, -0.12, letter, ha="center", va="top", fontsize=10)
            right = max(right, x + 1)
    bare(axes, -0.1, max(right, 8), -0.5, 0.9)
