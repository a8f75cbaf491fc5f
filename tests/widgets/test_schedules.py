"""The schedule explorer: its picture is the schedule's, and moving a slider moves it."""

from __future__ import annotations

from llmlab.plot import Picture
from llmlab.plot.schedules import schedule
from llmlab.widgets.schedules import draw_schedule, schedule_explorer


def test_sliders_redraw_the_schedule_and_its_sentence(displayed):
    box = schedule_explorer()
    controls = {control.description: control for control in box.children[:-2]}
    assert schedule("1f1b", 4, 8).alt in box.children[-1].value.replace("&#x27;", "'")
    controls["microbatches"].value = 32
    assert "32 microbatches" in box.children[-1].value
    controls["schedule"].value = "zb_h1"
    assert "zb_h1: 32 microbatches" in box.children[-1].value


def test_interleaved_rounds_the_microbatches_up_and_says_so():
    figure = Picture()
    draw_schedule(figure, "interleaved", 4, 6, 2, 0.0)
    assert "8 microbatches through 8 stages on 4 ranks" in figure.alt
    assert figure.alt.endswith("(It takes microbatches in rounds of 4: 8, not 6.)")
