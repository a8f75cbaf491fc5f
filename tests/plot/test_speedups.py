"""Speed-up: measured is solid, modelled is dashed, and nothing is claimed beyond the processors."""

from __future__ import annotations

import pytest

from llmlab import plot
from llmlab.measuring import tabulate, tabulate_seconds


@pytest.fixture
def measured(run_of):
    runs = [
        run_of(ranks=n, seconds=s, clock="wall", not_modelled=()) for n, s in ((1, 8.0), (1, 10.0), (2, 5.0), (4, 5.0))
    ]
    return tabulate(runs, worker="train", processors=2)


@pytest.fixture
def modelled():
    seconds = {1: 12.0, 2: 6.0, 4: 4.0, 16: 2.0}
    return tabulate_seconds(
        seconds, clock="virtual", hardware="classroom", worker="train", not_modelled=("stragglers",)
    )


def line(axes, start):
    return next(found for found in axes.lines if found.get_label().startswith(start))


def test_each_table_is_drawn_over_its_own_reference(measured, modelled):
    top, bottom = plot.speedup(measured, modelled).axes
    assert list(line(top, "train: modelled").get_ydata()) == [1, 2, 3, 6]
    assert list(line(bottom, "train: modelled").get_ydata()) == [1, 1, 0.75, 0.375]
    assert list(line(top, "train: measured on").get_ydata()) == pytest.approx([(9 / 8 + 9 / 10) / 2, 9 / 5])


def test_measured_is_solid_and_modelled_is_dashed(measured, modelled):
    for axes in plot.speedup(measured, modelled).axes:
        assert not line(axes, "train: measured on").is_dashed()
        assert line(axes, "train: modelled").is_dashed()


def test_ranks_beyond_the_processors_are_crosses_off_the_line(measured):
    top = plot.speedup(measured).axes[0]
    assert list(line(top, "train: measured on").get_xdata()) == [1, 2]
    cross = line(top, "train: measured, but ranks share")
    assert list(cross.get_xdata()) == [4] and cross.get_linestyle() == "None"


def test_the_ideal_line_starts_at_the_reference(modelled):
    assert list(line(plot.speedup(modelled).axes[0], "ideal").get_ydata()) == [1, 2, 4, 16]
    from_two = tabulate_seconds({2: 6.0, 8: 3.0}, clock="virtual", hardware="classroom")
    top = plot.speedup(from_two).axes[0]
    assert list(line(top, "ideal").get_ydata()) == [1, 4] and top.get_ylabel() == "speed-up over 2 ranks"


def test_the_legend_and_the_caption_say_what_on_which_hardware(measured, modelled):
    figure = plot.speedup(measured, modelled)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "ideal", "train: measured on a test machine", "train: modelled on classroom",
        "train: measured, but ranks share processors: no claim",
    ]  # fmt: skip
    caption = figure.get_supxlabel()
    assert "Measured on a test machine, wall clock. Reference: train on 1 rank." in caption
    assert "Modelled on classroom, virtual clock. Reference: train on 1 rank. Not modelled: stragglers." in caption


def test_the_sentence_has_the_modelled_numbers_and_no_measured_ones(measured, modelled):
    assert plot.speedup(modelled).alt == (
        "train, modelled on classroom, strong scaling: speed-up over 1 rank 1 on 1, 2 on 2, 3 on 4 and 6 on 16 ranks; "
        "efficiency 38% on 16."
    )
    assert plot.speedup(measured).alt == (
        "train, measured on this machine, strong scaling: 1, 2 and 4 ranks, "
        "a solid line up to the number of processors."
    )


def test_a_list_of_runs_will_do(run_of):
    figure = plot.speedup([run_of(ranks=1, seconds=4.0), run_of(ranks=2, seconds=2.0)])
    assert list(line(figure.axes[0], "worker").get_ydata()) == [1, 2]


def test_strong_and_weak_scaling_are_not_mixed(modelled):
    weak = tabulate_seconds({1: 1.0, 2: 1.0}, clock="virtual", hardware="classroom", work="weak")
    with pytest.raises(ValueError, match="one kind of work, got strong and weak"):
        plot.speedup(modelled, weak)


def test_slower_than_the_reference_is_marked():
    slow = tabulate_seconds({1: 1.0, 2: 4.0}, clock="virtual", hardware="classroom")
    assert line(plot.speedup(slow).axes[0], "below this line: slower").get_ydata()[0] == 1
