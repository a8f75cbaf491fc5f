"""Gantt charts: the boxes that are drawn are the pieces of the schedule."""

from __future__ import annotations

import pytest
from matplotlib.patches import Rectangle

from llmlab.parallel.jobs import Job, backfill, first_come
from llmlab.plot.gantts import gantt
from llmlab.plot.picture import png

JOBS = [Job("A", 3, 4), Job("B", 4, 2), Job("C", 1, 3, arrives=1)]


def boxes(axes):
    """The drawn boxes: (job, first rank, last rank, start, stop)."""
    found = []
    for patch in axes.patches:
        assert isinstance(patch, Rectangle)
        x, y = patch.get_xy()
        first, last = round(y + 0.42), round(y + patch.get_height() - 0.42)
        found.append((patch.get_label(), first, last, x, x + patch.get_width()))
    return found


def test_every_piece_is_a_box_over_its_ranks_and_time():
    (axes,) = gantt({"first come": first_come(JOBS, 4)}).axes
    assert boxes(axes) == [("A", 0, 2, 0, 4), ("B", 0, 3, 4, 6), ("C", 0, 0, 6, 9)]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # rank 0 on top
    assert [text.get_text() for text in axes.texts] == ["A", "B", "C"]


def test_ranks_that_are_not_neighbours_get_a_box_each():
    schedule = first_come([Job("A", 1, 1), Job("B", 1, 3), Job("C", 1, 1), Job("D", 2, 1, arrives=1)], 3)
    assert [box[1:3] for box in boxes(gantt({"": schedule}).axes[0]) if box[0] == "D"] == [(0, 0), (2, 2)]


def test_two_schedules_share_the_time_axis_and_the_jobs_looks():
    figure = gantt({"first come": first_come(JOBS, 4), "backfill": backfill(JOBS, 4)})
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim() == (0, 9)
    looks = [{p.get_label(): (p.get_facecolor(), p.get_hatch()) for p in axes.patches} for axes in figure.axes]
    assert looks[0] == looks[1] and len(set(looks[0].values())) == 3
    assert below.get_title(loc="left") == "backfill: 6 s, 4% idle"


def test_a_mark_shows_when_a_job_arrives():
    (axes,) = gantt({"first come": first_come(JOBS, 4)}).axes
    assert axes.lines[0].get_xdata().tolist() == [1.0]


def test_jobs_that_are_all_there_at_the_start_leave_room_for_the_axes():
    jobs = [Job(name, 2, 3) for name in "ABCD"]
    figure = gantt({str(i): first_come(jobs, 4) for i in range(3)})
    png(figure)  # a layout that collapses warns, and warnings are errors here
    assert all(axes.get_window_extent().height > 50 and not axes.lines for axes in figure.axes)


def test_the_sentence_says_each_jobs_end():
    figure = gantt({"first come": first_come(JOBS, 4)})
    assert figure.alt == (
        "first come: 3 jobs on 4 ranks in 9 s, 36% of the ranks' time idle; "
        "A ends at 4 s, B ends at 6 s and C ends at 9 s."
    )
    assert figure.get_supxlabel().startswith("Modelled: ")


def test_no_schedule_is_refused():
    with pytest.raises(ValueError, match="schedules as {name: schedule}; got {}"):
        gantt({})
