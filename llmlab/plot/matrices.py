"""Matrix products whose factors are split over ranks: a colour and hatch per rank, and what follows for the product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from llmlab.arguments import instances, table, whole
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLACK, FILLS, PALE, fill_style, listing

Split = Literal[0, 1, "partial"] | None
WORDS = {None: "whole on every rank", 0: "split by rows", 1: "split by columns", "partial": "a summand on each rank"}
GAP = 1.6  # between the parts of an equation, in the units of the matrices


@dataclass(frozen=True)
class Matrix:
    """A matrix, and how its numbers lie on the ranks: whole (None), by rows (0), by columns (1), or as summands."""

    name: str
    rows: float
    columns: float
    split: Split = None

    def __matmul__(self, right: Matrix) -> Matrix:
        """Multiply what each rank holds; ValueError where a rank lacks what it would need."""
        if self.columns != right.rows:
            raise ValueError(f"{self.name} has {self.columns} columns, {right.name} {right.rows} rows: they must agree")
        results: dict[tuple[Split, Split], Split] = {
            (None, None): None, (None, 1): 1, (0, None): 0, (1, 0): "partial",
        }  # fmt: skip
        key = self.split, right.split
        if key not in results:
            raise ValueError(
                f"{self.name} {WORDS[self.split]} times {right.name} {WORDS[right.split]}: no rank holds matching "
                "parts of the two; legal: whole x columns, rows x whole, columns x rows"
            )
        return Matrix(f"{self.name} {right.name}", self.rows, right.columns, results[key])


@styled
def products(equations: Mapping[str, tuple[Matrix, Matrix]], ranks: int = 2, figure: Picture | None = None) -> Picture:
    """Draw {title: (left, right)} one below the other, each with its product. Grey: whole; sheets: to be added up."""
    whole("products", "ranks", ranks, least=1, most=len(FILLS))
    for title, pair in table("products", "equations", equations, "{title: (left, right)}").items():
        if len(instances("products", title, pair, Matrix, "Matrix(name, rows, columns)")) != 2:
            raise ValueError(f"products wants {title} as (left, right); got {len(pair)} matrices")
    rows = {title: (left, right, left @ right) for title, (left, right) in equations.items()}
    heights = [max(m.rows for m in terms) + 2 * GAP for terms in rows.values()]
    figure = canvas(figure, (9, 0.22 * sum(heights) + 0.4 * len(rows)))
    drawn = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    wide = max(sum(m.columns for m in terms) + 3 * GAP for terms in rows.values())
    for axes, (title, terms) in zip(drawn, rows.items(), strict=True):
        axes.set_title(title, loc="left")
        _draw_equation(axes, terms, ranks, wide)
    return finish(figure, describe_products(rows, ranks))


def describe_products(rows: Mapping[str, tuple[Matrix, Matrix, Matrix]], ranks: int) -> str:
    """Say of each equation how its factors are split, and its product."""
    said = []
    for title, (left, right, product) in rows.items():
        factors = listing([f"{m.name} {WORDS[m.split]}" for m in (left, right)])
        said.append(f"{title}: {factors} give {product.name} {WORDS[product.split]}")
    return f"Matrix products over {ranks} ranks. {'; '.join(said)}."


def _draw_equation(axes: Axes, terms: tuple[Matrix, Matrix, Matrix], ranks: int, wide: float) -> None:
    x, middle = 0.0, max(m.rows for m in terms) / 2
    for matrix, sign in zip(terms, ("·", "=", ""), strict=True):
        _draw_matrix(axes, matrix, x, middle - matrix.rows / 2, ranks)
        x += matrix.columns + GAP
        axes.text(x - GAP / 2, middle, sign, ha="center", va="center", fontsize=16)
    axes.set_xlim(-0.2, wide)
    axes.set_ylim(2 * middle + GAP, -0.2)
    axes.set_aspect("equal", anchor="W")
    axes.axis("off")


def _draw_matrix(axes: Axes, matrix: Matrix, x: float, y: float, ranks: int) -> None:
    for rank in range(ranks):
        left, top, width, height, style = x, y, matrix.columns, matrix.rows, fill_style(rank)
        if matrix.split == 0:
            height /= ranks
            top += rank * height
        elif matrix.split == 1:
            width /= ranks
            left += rank * width
        elif matrix.split == "partial":  # one sheet behind the other
            left, top = left + 0.35 * (ranks - 1 - rank), top - 0.35 * (ranks - 1 - rank)
        else:
            style = {"facecolor": PALE, "edgecolor": BLACK}
        axes.add_patch(Rectangle((left, top), width, height, **style))
    axes.text(x + matrix.columns / 2, y + matrix.rows + 0.25, matrix.name, ha="center", va="top", fontsize=11)
