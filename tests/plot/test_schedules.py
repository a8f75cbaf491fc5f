"""A drawn schedule: a box per action, where the timetable has it, and a sentence that says the bubble."""

from __future__ import annotations

import pytest

from llmlab.parallel.schedules import Schedule, make_schedule
from llmlab.parallel.timetable import timetable
from llmlab.plot.schedules import schedule


def boxes(figure):
    """The drawn boxes: (action, rank, start, stop)."""
    found = []
    for patch in figure.axes[0].patches:
        x, y = patch.get_xy()
        found.append((patch.get_label(), round(y + 0.42), x, x + patch.get_width()))
    return found


@pytest.mark.parametrize(("name", "stages"), [("gpipe", 1), ("1f1b", 1), ("zb_h1", 1), ("interleaved", 2)])
def test_every_action_is_a_box_on_its_rank_in_its_time(name, stages):
    plan = make_schedule(name, 3, 6, stages)
    wanted = [(str(s.action), s.rank, pytest.approx(s.start), pytest.approx(s.stop)) for s in timetable(plan)]
    figure = schedule(name, 3, 6, virtual_stages=stages)
    assert boxes(figure) == wanted
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # rank 0 on top


def test_kinds_differ_in_colour_and_hatch_and_are_in_the_legend():
    figure = schedule("zb_h1", 2, 2)
    looks = {p.get_label()[0]: (p.get_facecolor(), p.get_hatch()) for p in figure.axes[0].patches}
    assert len(set(looks.values())) == len({hatch for _, hatch in looks.values()}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["forward", "backward", "weights' gradients"]
    (legend,) = schedule("interleaved", 2, 2, virtual_stages=2).legends
    assert "forward, later stages" in [text.get_text() for text in legend.get_texts()]


def test_the_sentence_says_the_bubble_and_what_is_held():
    assert schedule("1f1b", 4, 8).alt == (
        "1f1b: 8 microbatches through 4 stages on 4 ranks take 33, of which each rank waits 9 (27%); rank by rank at "
        "most 4, 3, 2 and 1 microbatches are in flight."
    )
    uneven = schedule("gpipe", 2, 1, sizes=[1, 2]).alt
    assert "1 microbatch through 2 stages on 2 ranks take 9, of which the ranks wait 6 and 3 (50%)" in uneven


def test_ones_own_schedule_is_drawn_or_told_why_not():
    figure = schedule(Schedule.parse("F0 B0"), costs={"F": 2, "B": 3})
    assert boxes(figure) == [("F0@0", 0, 0, 2), ("B0@0", 0, 2, 5)]
    assert figure.get_supxlabel().startswith("A plan")
    with pytest.raises(ValueError, match="wants F0@0 before B0@0"):
        schedule(Schedule.parse("B0 F0"))


def test_the_title_says_the_share_of_the_bubble():
    figure = schedule("1f1b", 4, 8)  # (p - 1) / (m + p - 1)
    assert figure.axes[0].get_title(loc="left") == "1f1b, 8 through 4 stages: ranks wait 27%" and "(27%)" in figure.alt
