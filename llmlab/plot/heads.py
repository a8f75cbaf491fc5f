"""One attention head as matrices: queries, keys and values, who may look at whom, and what comes out."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from llmlab.arguments import flag, wholes
from llmlab.plot.flows import bare
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLUE, GREEN, ORANGE, PALE, PURPLE, SKY

GAP = 1.5  # between the terms of an equation, in numbers
Q, K, V, WEIGHTS, OUT = BLUE, ORANGE, GREEN, SKY, PURPLE
Term = tuple[str, int, int, str]  # its name, rows, columns and colour


@styled
def head(
    tokens: int = 6, d_model: int = 8, head_dim: int = 4, causal: bool = True, figure: Picture | None = None
) -> Picture:
    """Draw a head of `head_dim` numbers over `tokens` vectors of `d_model`; a square is a number, hatched is not seen.

    Vaswani et al. 2017, equation 1, with the three projections before it (section 3.2.2).
    """
    wholes("head", 1, tokens=tokens, d_model=d_model, head_dim=head_dim)
    flag("head", "causal", causal)
    terms = {
        "1. three projections of the same vectors": ("·,,=,,", _project(tokens, d_model, head_dim)),
        "2. a score for every query and key": (
            "·=", [("Q", tokens, head_dim, Q), ("Kᵀ", head_dim, tokens, K), ("scores", tokens, tokens, WEIGHTS)],
        ),
        "3. softmax(scores / √K), row by row, times V": (
            "·=", [("weights", tokens, tokens, WEIGHTS), ("V", tokens, head_dim, V), ("head", tokens, head_dim, OUT)],
        ),
    }  # fmt: skip
    above, below = max(tokens, d_model), max(tokens, head_dim)
    figure = canvas(figure, (9, 0.21 * (above + below) + 2))
    grid = figure.add_gridspec(2, 2, height_ratios=[above + 2, below + 2])
    wide = max(sum(columns + GAP for _, _, columns, _ in row) for _, row in terms.values())
    for i, (title, (signs, row)) in enumerate(terms.items()):
        axes = figure.add_subplot(grid[0, :] if i == 0 else grid[1, i - 1])
        axes.set_title(title, loc="left")
        _equation(axes, row, signs, causal)
        bare(axes, -0.3, wide if i == 0 else wide / 2, (below if i else above) + 1.6, -0.2)
        axes.set_aspect("equal", anchor="W")
    return finish(figure, describe_head(tokens, d_model, head_dim, causal))


def describe_head(tokens: int, d_model: int, head_dim: int, causal: bool) -> str:
    """Say the shapes, and what is masked."""
    seen = tokens * (tokens + 1) // 2 if causal else tokens**2
    hidden = f"{tokens**2 - seen} of them, above the diagonal, are masked" if causal else "none of them is masked"
    return (
        f"One attention head: X [{tokens}, {d_model}] is multiplied by three matrices [{d_model}, {head_dim}] and "
        f"gives Q, K and V [{tokens}, {head_dim}]; Q times K transposed gives {tokens**2} scores [{tokens}, {tokens}], "
        f"{hidden}; their softmax, row by row, times V gives the head's output [{tokens}, {head_dim}]."
    )


def _project(tokens: int, d_model: int, head_dim: int) -> list[Term]:
    parts = (("Q", Q), ("K", K), ("V", V))
    return [
        ("X", tokens, d_model, PALE),
        *((f"$W_{name}$", d_model, head_dim, colour) for name, colour in parts),
        *((name, tokens, head_dim, colour) for name, colour in parts),
    ]


def _equation(axes: Axes, terms: list[Term], signs: str, causal: bool) -> None:
    x, middle = 0.0, max(rows for _, rows, _, _ in terms) / 2
    for (name, rows, columns, colour), sign in zip(terms, f"{signs} ", strict=True):
        masked = causal and name in ("scores", "weights")
        _matrix(axes, x, middle - rows / 2, rows, columns, colour, masked)
        below = x + columns / 2, middle + rows / 2 + 0.2
        axes.text(*below, f"{name}\n[{rows}, {columns}]", ha="center", va="top", fontsize=10)
        x += columns + GAP
        axes.text(x - GAP / 2, middle, sign, ha="center", va="center", fontsize=16, weight="bold")


def _matrix(axes: Axes, x: float, y: float, rows: int, columns: int, colour: str, masked: bool) -> None:
    """Draw a matrix number by number."""
    for i in range(rows):
        for j in range(columns):
            unseen = masked and j > i
            style: dict[str, Any] = {"facecolor": "white", "hatch": "///"} if unseen else {"facecolor": colour}
            axes.add_patch(Rectangle((x + j, y + i), 1, 1, edgecolor="#555555", linewidth=0.6, **style))
