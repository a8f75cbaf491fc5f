"""Where a token stands, as numbers: the sinusoids of a position, and the turning hands of a rotary one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from llmlab.arguments import real, whole
from llmlab.model.embedding import angles_of, sinusoids
from llmlab.plot.heatmaps import SIGNED
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLUE, GREY, VERMILION


@styled
def sinusoid_picture(position: int, d_model: int = 64, seq: int = 64, figure: Picture | None = None) -> Picture:
    """Draw the table of sinusoids, and the products of one position's row with all the others'."""
    _check(seq, position=position)
    if whole("sinusoid_picture", "d_model", d_model, least=2) % 2:
        raise ValueError(f"sinusoid_picture wants d_model as an even number, for pairs; got {d_model}")
    table = sinusoids(torch.arange(seq), d_model)
    products = likeness(position, d_model, seq, 10000.0)
    figure = canvas(figure, (9, 4.2))
    left, right = figure.subplots(1, 2)
    left.imshow(table.T.numpy(), cmap=SIGNED, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    left.axvline(position, color="black", linewidth=1.5)
    left.set_title("sin (even rows) and cos (odd rows)")
    left.set_xlabel("position")
    left.set_ylabel("dimension")
    _against_position(right, products, position, "PE(t) · PE(s), of PE(t) · PE(t)")
    near = [products[s] for s in (position - 1, position + 1) if 0 <= s < seq]
    apart = f"one step away {max(near):.2f}" if near else "alone"
    return finish(
        figure, f"Sinusoids of position {position} among {seq}, {d_model} numbers: with itself 1.00, {apart}."
    )


@styled
def rotary_picture(
    query: int,
    key: int,
    head_dim: int = 32,
    base: float = 10000.0,
    seq: int = 64,
    figure: Picture | None = None,
) -> Picture:
    """Draw how four of the pairs of a query and a key are turned, and the score this leaves for equal vectors."""
    _check(seq, query=query, key=key)
    real("rotary_picture", "base", base, above=0)
    if whole("rotary_picture", "head_dim", head_dim, least=8) % 2:
        raise ValueError(f"rotary_picture wants head_dim as an even number, for pairs; got {head_dim}")
    pairs = [0, head_dim // 8, head_dim // 4, head_dim // 2 - 1]
    figure = canvas(figure, (9, 4.6))
    grid = figure.add_gridspec(2, 4)
    angles = angles_of(torch.tensor([query, key]), head_dim, base)
    for i, pair in enumerate(pairs):
        axes = figure.add_subplot(grid[i // 2, i % 2])
        _hands(axes, angles[:, pair].tolist(), f"pair {pair}")
    products = likeness(query, head_dim, seq, base)
    _against_position(figure.add_subplot(grid[:, 2:]), products, key, "score of a key at position s")
    figure.legend(*_legend(), loc="outside lower left", ncols=2, fontsize=10)
    text = (
        f"Rotary positions: query at {query}, key at {key}, {abs(query - key)} apart: of the score {products[key]:.2f} "
        f"is left, as for any two that far apart."
    )
    return finish(figure, text)


def likeness(position: int, dim: int, seq: int, base: float) -> list[float]:
    """Give the mean over the pairs of cos((t - s) θ_i), for s = 0 .. seq - 1: what both kinds of position leave."""
    distance = position - torch.arange(seq)
    return angles_of(distance, dim, base).cos().mean(-1).tolist()


def _hands(axes: Axes, angles: Sequence[float], title: str) -> None:
    axes.add_patch(Circle((0, 0), 1, fill=False, color=GREY))
    for angle, (colour, style, length) in zip(angles, ((BLUE, "-", 1.0), (VERMILION, "--", 0.75)), strict=True):
        x, y = (f(torch.tensor(angle)).item() * length for f in (torch.cos, torch.sin))
        axes.plot([0, x], [0, y], color=colour, linestyle=style, linewidth=2.5)
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-1.1, 1.1)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(title, fontsize=10.5)


def _legend() -> tuple[list[Line2D], list[str]]:
    hands = [Line2D([], [], color=BLUE, linewidth=2.5), Line2D([], [], color=VERMILION, linestyle="--", linewidth=2.5)]
    return hands, ["query", "key"]


def _against_position(axes: Axes, products: Sequence[float], marked: int, ylabel: str) -> None:
    axes.plot(range(len(products)), products, color=BLUE, linewidth=2)
    axes.plot([marked], [products[marked]], "o", color=VERMILION, markersize=9)
    axes.set_ylim(-0.4, 1.05)
    axes.set_xlabel("position s")
    axes.set_title(ylabel, fontsize=11)
    axes.grid()


def _check(seq: int, **positions: int) -> None:
    last = whole("a picture of positions", "seq", seq, least=1) - 1
    for name, position in positions.items():
        whole("a picture of positions", name, position, least=0, most=last)
