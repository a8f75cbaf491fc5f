"""Who holds what before and after a collective: a row per rank, a column per slice of the tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from llmlab.arguments import choice, whole
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import fill_style, text_on

MAX_RANKS = 8  # as many as there are looks


@dataclass(frozen=True)
class Piece:
    """A slice of a tensor, and the ranks whose values are added up in it."""

    slice: int
    ranks: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name slice 0 of rank 2 `a2`, and its sum over all ranks `Σa`."""
        letter = "abcdefgh"[self.slice]
        return f"Σ{letter}" if len(self.ranks) > 1 else f"{letter}{self.ranks[0]}"


State = list[list[Piece | None]]  # [rank][column]: what lies there, None for nothing


def before_and_after(op: str, ranks: int, root: int = 0) -> tuple[State, State]:
    """Lay out what each rank holds before and after a collective. Raises ValueError for one that is not known."""
    whole("a placement", "ranks", ranks, least=2, most=MAX_RANKS)
    whole("a placement", "root", root, least=0, most=ranks - 1)
    n, everyone = range(ranks), tuple(range(ranks))
    own: State = [[Piece(j, (r,)) for j in n] for r in n]
    sums: State = [[Piece(j, everyone) for j in n] for _ in n]
    gathered: State = [[Piece(j, (j,)) for j in n] for _ in n]
    roots: State = [[Piece(j, (root,)) for j in n] for _ in n]
    states: dict[str, tuple[State, State]] = {
        "all_reduce": (own, sums),
        "reduce_scatter": (own, _diagonal(sums)),
        "reduce": (own, _only(sums, root)),
        "all_gather": (_diagonal(own), gathered),
        "gather": (_diagonal(own), _only(gathered, root)),
        "broadcast": (_only(own, root), roots),
        "scatter": (_only(own, root), _diagonal(roots)),
        "all_to_all": (own, [[Piece(r, (j,)) for j in n] for r in n]),
    }
    return states[choice("a placement", "op", op, states)]


@styled
def placement(op: str, ranks: int = 4, root: int = 0, figure: Picture | None = None) -> Picture:
    """Draw who holds what before and after a collective: a colour and hatch per rank, white for a sum over all."""
    before, after = before_and_after(op, ranks, root)
    figure = canvas(figure, (9, 1.3 + 0.5 * ranks))
    for axes, state, word in zip(figure.subplots(1, 2), (before, after), ("before", "after"), strict=True):
        _draw(axes, state)
        axes.set_title(f"{word} {op}")
    return finish(figure, describe_placement(op, ranks, root))


def describe_placement(op: str, ranks: int, root: int = 0) -> str:
    """Say what each rank holds before and after."""
    said = []
    for state, word in zip(before_and_after(op, ranks, root), ("Before", "after"), strict=True):
        rows = [f"rank {r} {' '.join(p.label for p in row if p) or 'nothing'}" for r, row in enumerate(state)]
        said.append(f"{word} {op}: {', '.join(rows)}")
    return "; ".join(said) + "."


def _diagonal(state: State) -> State:
    """Keep each rank's own column."""
    return [[piece if r == j else None for j, piece in enumerate(row)] for r, row in enumerate(state)]


def _only(state: State, root: int) -> State:
    """Keep one rank's row."""
    return [row if r == root else [None] * len(row) for r, row in enumerate(state)]


def _draw(axes: Axes, state: State) -> None:
    for r, row in enumerate(state):
        for j, piece in enumerate(row):
            if piece is not None:
                _draw_piece(axes, r, j, piece)
    axes.set_xlim(0, len(state))
    axes.set_ylim(len(state), 0)  # rank 0 on top
    axes.set_yticks([r + 0.5 for r in range(len(state))], [f"rank {r}" for r in range(len(state))])
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_piece(axes: Axes, r: int, j: int, piece: Piece) -> None:
    style: dict[str, Any] = {"facecolor": "white", "edgecolor": "black", "linewidth": 2}  # a sum
    if len(piece.ranks) == 1:
        style = fill_style(piece.ranks[0])
    axes.add_patch(Rectangle((j + 0.04, r + 0.08), 0.92, 0.84, **style))
    colour = style["facecolor"]
    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
    middle = (j + 0.5, r + 0.5)
    axes.text(*middle, piece.label, ha="center", va="center", fontsize=13, color=text_on(colour), bbox=box)
