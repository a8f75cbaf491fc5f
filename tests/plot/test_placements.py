"""Placements: the drawing agrees with what the collectives do."""

from __future__ import annotations

import pytest
import torch

from llmlab import plot
from llmlab.comm.simulator import Simulator
from llmlab.plot.placements import before_and_after

OPS = ["all_reduce", "reduce_scatter", "reduce", "all_gather", "gather", "broadcast", "scatter", "all_to_all"]


def value(piece):
    """A number for a piece that no other piece has: slice j of rank r is 10**r * (j + 1)."""
    return 0 if piece is None else sum(10**r for r in piece.ranks) * (piece.slice + 1)


def collective(world, op, before):
    """Run a collective on the numbers of a drawn state; give what this rank holds afterwards."""
    mine = torch.tensor([value(p) for p in before[world.rank] if p], dtype=torch.int64)
    if op == "all_to_all":
        return torch.cat(world.all_to_all(list(mine.split(1)))).tolist()
    if op in ("reduce", "gather"):
        result = getattr(world, op)(mine, dst=1)
    elif op in ("broadcast", "scatter"):
        like = mine if world.rank == 1 else torch.zeros(world.size if op == "broadcast" else 0, dtype=torch.int64)
        result = getattr(world, op)(like if op == "broadcast" or world.rank == 1 else None, src=1)
    else:
        result = getattr(world, op)(mine)
    return [] if result is None else result.tolist()


@pytest.mark.parametrize("op", OPS)
def test_the_drawing_is_what_the_collective_does(op):
    before, after = before_and_after(op, 3, root=1)
    run = Simulator(ranks=3).run(collective, op, before)
    assert run.results == [[value(piece) for piece in row if piece] for row in after]


def test_every_piece_is_drawn_with_its_name():
    figure = plot.placement("reduce_scatter", ranks=3)
    before, after = figure.axes
    assert [text.get_text() for text in before.texts] == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]
    assert [text.get_text() for text in after.texts] == ["Σa", "Σb", "Σc"]
    assert [patch.get_xy() for patch in after.patches] == [(i + 0.04, i + 0.08) for i in range(3)]
    assert figure.alt == (
        "Before reduce_scatter: rank 0 a0 b0 c0, rank 1 a1 b1 c1, rank 2 a2 b2 c2; "
        "after reduce_scatter: rank 0 Σa, rank 1 Σb, rank 2 Σc."
    )


def test_no_two_ranks_look_alike():
    before = plot.placement("all_gather", ranks=8).axes[0]
    assert len({patch.get_hatch() for patch in before.patches}) == 8


@pytest.mark.parametrize(
    ("op", "ranks", "says"),
    [
        ("ring", 4, "op as one of 'all_reduce', .*got 'ring'"),
        ("all_reduce", 9, "ranks as a whole number from 2 to 8; got 9"),
    ],
)
def test_what_cannot_be_drawn_is_refused(op, ranks, says):
    with pytest.raises(ValueError, match=says):
        plot.placement(op, ranks)
