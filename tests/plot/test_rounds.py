"""An all-reduce drawn: its messages are those that the library sends, and the artists are those messages."""

from __future__ import annotations

from math import dist

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from llmlab import plot
from llmlab.comm.collectives import rounds, steps
from llmlab.comm.simulator import Simulator
from llmlab.plot.messages import ALL_REDUCE, all_reduce_steps, held_after
from llmlab.plot.rounds import RADIUS

CASES = [
    (name, ranks)
    for name in ALL_REDUCE
    for ranks in (2, 3, 4, 5, 8)
    if name != "halving_doubling" or ranks in (2, 4, 8)
]


def all_reduce(world, algorithm):
    world.all_reduce(torch.ones(world.size), algorithm=algorithm)  # 4 bytes for each chunk


@pytest.mark.parametrize(("algorithm", "ranks"), CASES)
def test_the_messages_drawn_are_those_the_library_sends(algorithm, ranks):
    trace = Simulator(ranks).run(all_reduce, algorithm).trace
    for rank in range(ranks):
        sent = [(e.peer, e.nbytes) for e in trace.select(rank=rank, op="send")]
        drawn = [
            (m.dst, 4 * len(m.chunks)) for step in all_reduce_steps(algorithm, ranks) for m in step if m.src == rank
        ]
        assert drawn == sent


@pytest.mark.parametrize(("algorithm", "ranks"), CASES)
def test_the_steps_drawn_are_those_of_the_closed_form(algorithm, ranks):
    drawn = all_reduce_steps(algorithm, ranks)
    assert len(drawn) == steps("all_reduce", algorithm, ranks)
    longest = [4.0 * max(len(m.chunks) for m in step) for step in drawn]
    assert longest == rounds("all_reduce", algorithm, ranks, 4 * ranks)


@pytest.mark.parametrize(("algorithm", "ranks"), CASES)
def test_at_the_end_every_rank_has_every_sum_and_no_value_was_added_twice(algorithm, ranks):
    drawn, everyone = all_reduce_steps(algorithm, ranks), frozenset(range(ranks))
    assert held_after(drawn, ranks) == [[everyone] * ranks] * ranks
    for k, step in enumerate(drawn):
        before = held_after(drawn[:k], ranks)
        for message in step:
            for c in message.chunks:
                own, came = before[message.dst][c], before[message.src][c]
                assert own.isdisjoint(came) if message.adds else came == everyone


def test_a_step_is_drawn_as_arrows_and_as_cells():
    figure = plot.all_reduce_step("ring", ranks=4, step=2)
    network, table = figure.axes
    arrows = [patch.get_label() for patch in network.patches if isinstance(patch, FancyArrowPatch)]
    assert arrows == ["0 to 1", "1 to 2", "2 to 3", "3 to 0"]
    cells = [patch for patch in table.patches if isinstance(patch, Rectangle)]
    came = [i for i, cell in enumerate(cells) if cell.get_linewidth() > 2]
    assert came == [1, 6, 11, 12]  # rank 0 gets b, rank 1 c, rank 2 d, rank 3 a
    words = [text.get_text() for text in table.texts]
    assert words[:5] == ["0", "023", "03", "0", "sent c to 1"]
    assert network.get_title(loc="left") == "ring, step 2 of 6"
    assert figure.alt == (
        "ring on 4 ranks, step 2 of 6: rank 0 sends c to 1, rank 1 sends d to 2, rank 2 sends a to 3 and rank 3 "
        "sends b to 0; after it 0 of 16 chunks are complete."
    )


def test_before_the_first_step_nothing_is_sent():
    figure = plot.all_reduce_step("tree", ranks=4)
    assert not [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert "nothing is sent yet; after it 0 of 16" in figure.alt


def test_a_tree_hangs_every_rank_under_its_parent():
    network = plot.all_reduce_step("tree", ranks=8, step=1).axes[0]
    heights = [patch.center[1] for patch in network.patches if isinstance(patch, Circle)]
    for step in all_reduce_steps("tree", 8)[:3]:
        assert all(heights[m.src] < heights[m.dst] for m in step)


@pytest.mark.parametrize(("algorithm", "ranks"), CASES)
def test_no_two_ranks_and_no_two_words_lie_on_each_other(algorithm, ranks):
    for step in (0, 1, len(all_reduce_steps(algorithm, ranks))):
        figure = plot.all_reduce_step(algorithm, ranks, step)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for axes in figure.axes:
            words = [*axes.texts, *(axes.get_yticklabels() if axes.axison else [])]
            boxes = [text.get_window_extent() for text in words if text.get_text()]
            boxes.append(axes._left_title.get_window_extent())
            assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
            assert all(0 <= box.x0 and box.x1 <= figure.bbox.width for box in boxes), boxes
        places = [patch.center for patch in figure.axes[0].patches if isinstance(patch, Circle)]
        assert all(dist(a, b) > 2 * RADIUS for i, a in enumerate(places) for b in places[:i])


def test_all_messages_are_lines_from_step_to_step_as_wide_as_what_they_carry():
    figure = plot.all_reduce_messages(ranks=8)
    for axes, name in zip(figure.axes, ("ring", "tree", "halving_doubling"), strict=True):
        (lines,) = axes.collections
        drawn = [((x0, y0), (x1, y1)) for (x0, y0), (x1, y1) in (s.tolist() for s in lines.get_segments())]
        sent = [(k, m) for k, step in enumerate(all_reduce_steps(name, 8)) for m in step]
        assert drawn == [((k, m.src), (k + 1, m.dst)) for k, m in sent]
        assert [round((w - 0.6) / 3.4 * 8) for w in lines.get_linewidths()] == [len(m.chunks) for _, m in sent]
    assert figure.alt == (
        "Messages of an all-reduce of n bytes on 8 ranks: ring 14 steps with 112 messages of 0.125 n, the busiest rank "
        "sends 1.75 n, tree 6 steps with 14 messages of 1 n, the busiest rank sends 3 n and halving-doubling 6 steps "
        "with 48 messages of 0.125 to 0.5 n, the busiest rank sends 1.75 n."
    )


@pytest.mark.parametrize(
    ("algorithm", "ranks", "step", "says"),
    [
        ("rings", 4, 0, "did you mean 'ring'"),
        ("ring", 9, 0, "ranks as a whole number from 2 to 8; got 9"),
        ("ring", 4, 7, "step as a whole number from 0 to 6; got 7"),
        ("halving_doubling", 6, 0, "power of two of ranks, got 6"),
    ],
)
def test_what_cannot_be_drawn_is_refused(algorithm, ranks, step, says):
    with pytest.raises(ValueError, match=says):
        plot.all_reduce_step(algorithm, ranks, step)
