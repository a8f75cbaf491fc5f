"""Split matrices: the product is drawn as it really lies on the ranks."""

from __future__ import annotations

import itertools

import pytest
import torch

from llmlab.plot.matrices import Matrix, products

SPLITS = [None, 0, 1]


def part(x: torch.Tensor, split, rank: int) -> torch.Tensor:
    return x if split is None else x.chunk(2, split)[rank]


def really(left, right) -> object:
    """How the product of two 4 x 4 factors lies on 2 ranks, found by computing it; "nowhere" if it does not."""
    a, b = torch.arange(16.0).view(4, 4), torch.arange(16.0).view(4, 4).cos()
    parts = [(part(a, left, rank), part(b, right, rank)) for rank in range(2)]
    if parts[0][0].shape[1] != parts[0][1].shape[0]:
        return "nowhere"
    local = [x @ y for x, y in parts]
    for split in SPLITS:
        wanted = [part(a @ b, split, rank) for rank in range(2)]
        if all(x.shape == y.shape and torch.allclose(x, y) for x, y in zip(local, wanted, strict=True)):
            return split
    return "partial" if local[0].shape == (4, 4) and torch.allclose(sum(local), a @ b, atol=1e-4) else "nowhere"


@pytest.mark.parametrize("left, right", list(itertools.product(SPLITS, SPLITS)))
def test_a_product_lies_as_it_is_drawn(left, right):
    factors = Matrix("a", 4, 4, left), Matrix("b", 4, 4, right)
    if really(left, right) == "nowhere":
        with pytest.raises(ValueError, match="no rank holds matching parts"):
            factors[0] @ factors[1]
    else:
        assert (factors[0] @ factors[1]).split == really(left, right)


def test_each_rank_has_its_colour_and_the_sentence_says_what_follows():
    figure = products({"rows": (Matrix("h", 2, 4, 1), Matrix("B", 4, 3, 0))}, ranks=2)
    h0, h1, b0, b1, *sheets = figure.axes[0].patches
    assert h0.get_facecolor() == b0.get_facecolor() != h1.get_facecolor() == b1.get_facecolor()
    assert [(h.get_width(), h.get_height()) for h in (h0, b0)] == [(2, 2), (3, 2)]
    assert [(s.get_width(), s.get_height()) for s in sheets] == [(3, 2), (3, 2)]
    assert figure.alt == (
        "Matrix products over 2 ranks. rows: h split by columns and B split by rows give h B a summand on each rank."
    )


def test_what_does_not_multiply_or_cannot_be_coloured_is_refused():
    with pytest.raises(ValueError, match="x has 3 columns, A 4 rows"):
        Matrix("x", 2, 3) @ Matrix("A", 4, 2)
    with pytest.raises(ValueError, match="ranks as a whole number from 1 to 8; got 9"):
        products({"": (Matrix("x", 2, 3), Matrix("A", 3, 2))}, ranks=9)
