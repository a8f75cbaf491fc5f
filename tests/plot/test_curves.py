"""Curves, bars and the latency-bandwidth model, read from their artists."""

from __future__ import annotations

import pytest

from llmlab import plot
from llmlab.hardware import Link
from llmlab.plot.style import DASHED, LINE_COLOURS, MARKERS, SOLID, say_bytes


def line(axes, label):
    return next(found for found in axes.lines if found.get_label() == label)


def dashed(found):
    return found.is_dashed()


def test_losses_are_drawn_against_their_steps():
    (axes,) = plot.losses({"train": [3.0, 2.0, 1.0], "validation": {2: 2.5}}).axes
    assert list(line(axes, "train").get_xdata()) == [1, 2, 3]
    assert list(line(axes, "validation").get_xdata()) == [2] and list(line(axes, "validation").get_ydata()) == [2.5]


def test_equal_curves_stay_visible():
    (axes,) = plot.losses({"one process": [3.0, 2.0], "2 ranks": [3.0, 2.0], "4 ranks": [3.0, 2.0]}).axes
    widths = [found.get_linewidth() for found in axes.lines]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3
    assert len({(found.get_color(), found.get_marker()) for found in axes.lines}) == 3


def test_the_sentence_says_how_far_losses_differ():
    alt = plot.losses({"one": [3.0, 2.0], "two": [3.0, 2.25]}).alt
    assert alt.endswith("the curves differ by at most 0.250.")
    assert "differ" not in plot.losses({"one": [3.0, 2.0], "two": [3.0]}).alt


def test_lines_are_solid_when_measured_and_dashed_when_modelled():
    curves = {"a": ([1, 2], [3.0, 4.0]), "b": ([1, 2], [3.0, 5.0]), "c": ([1, 2], [3.0, 6.0])}
    figure = plot.lines(curves, "ranks", "seconds", clock={"a": "wall", "b": "virtual"}, hardware="a test")
    (axes,) = figure.axes
    assert [dashed(found) for found in axes.lines] == [False, True, False]
    assert [found.get_label() for found in axes.lines] == ["a: measured", "b: modelled", "c"]
    assert figure.get_supxlabel() == "Modelled on a test, virtual clock.\nMeasured on a test, wall clock."
    assert figure.alt == "seconds against ranks: a, measured; b, modelled, 3 at 1 and 5 at 2; c 3 at 1 and 6 at 2."


def test_lines_write_their_values_as_asked():
    figure = plot.lines({"ring": ([1e3, 1e6], [1.0, 2.0])}, "message", "messages", log=True, say_x=say_bytes)
    assert "1 at 1 kB and 2 at 1 MB" in figure.alt
    assert figure.axes[0].xaxis.get_major_formatter()(25e6, 0) == "25 MB"


def test_no_two_lines_share_both_colour_and_marker():
    assert len(set(LINE_COLOURS)) == len(LINE_COLOURS) == len(set(MARKERS)) == len(MARKERS)
    assert SOLID != DASHED


def test_bars_start_at_zero_and_show_every_repeat():
    figure = plot.bars({"one": [8.0, 9.0, 8.5], "two": [5.0, 4.0, 4.5]}, "seconds", clock="wall", hardware="a test")
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == 0
    assert [bar.get_height() for bar in axes.patches] == [8.5, 4.5]
    assert [sorted(found.get_ydata()) for found in axes.lines] == [[8.0, 8.5, 9.0], [4.0, 4.5, 5.0]]
    assert figure.alt == "Bars of seconds, measured: one; two."  # no number that another run would change


def test_bars_are_dashed_when_modelled_and_hatched_apart():
    (axes,) = plot.bars({"one": 2.0, "two": 1.0}, "seconds", clock="virtual", hardware="a test").axes
    assert {bar.get_linestyle() for bar in axes.patches} == {"--"}
    assert len({bar.get_hatch() for bar in axes.patches}) == 2
    assert (
        plot.bars({"one": 2.0, "two": 1.0}, "seconds", clock="virtual").alt
        == "Bars of seconds, modelled: one 2; two 1."
    )


def test_the_latency_bandwidth_line_is_alpha_plus_beta_times_bytes():
    points = {"2 processes": [(8.0, 6e-5), (1e6, 6e-4)]}
    figure = plot.alpha_beta(points, {"2 processes": (5e-5, 5e-10)}, hardware="a test")
    (axes,) = figure.axes
    measured, modelled, half = axes.lines
    assert measured.get_linestyle() == "None" and list(measured.get_xdata()) == [8.0, 1e6]
    assert dashed(modelled) and measured.get_color() == modelled.get_color()
    x, y = modelled.get_data()
    assert list(y) == pytest.approx([5e-5 + 5e-10 * n for n in x])
    assert (min(x), max(x)) == pytest.approx((8.0, 1e6))
    assert half.get_xdata()[0] == pytest.approx(1e5)  # alpha / beta
    assert "5" not in figure.alt.replace("2 sizes", "")  # measured: no number that another run would change


def test_a_published_link_is_drawn_with_its_efficiency():
    figure = plot.alpha_beta({}, {"a link": Link("x", 1e-5, 2e9, 0.5)})
    assert "modelled as 10 µs and 1 GB a second, alike at 10 kB" in figure.alt


@pytest.mark.parametrize(
    ("empty", "says"), [({}, "curves as {name: losses}; got {}"), ({"a": []}, "each with values, got .'a'")]
)
def test_nothing_to_draw_is_refused(empty, says):
    with pytest.raises(ValueError, match=says):
        plot.losses(empty)


def test_a_fit_that_costs_nothing_is_refused():
    with pytest.raises(ValueError, match="beta > 0"):
        plot.alpha_beta({}, {"a": (1e-5, 0.0)})


def test_a_logarithmic_axis_of_few_decades_writes_ones_twos_and_fives_only():
    (axes,) = plot.lines({"a": ([256, 8192], [0.4, 4.0])}, "tokens", "characters", log=True).axes
    axes.figure.canvas.draw()
    shown = {text.get_text() for text in axes.get_xticklabels(which="both")} - {""}
    assert {"500", "1,000", "5,000"} <= shown and not any("times" in text for text in shown)
