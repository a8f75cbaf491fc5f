"""The picture of a threshold: two lines that cross where it says, grey up to there."""

from __future__ import annotations

import pytest

from llmlab.cost.thresholds import THRESHOLDS, threshold
from llmlab.hardware import cluster
from llmlab.plot import threshold as draw
from llmlab.plot import thresholds


@pytest.mark.parametrize("mode", THRESHOLDS)
def test_the_lines_cross_at_the_threshold(mode):
    limit = threshold(mode, "h100", 8)
    axes = draw(limit).axes[0]
    computing, against = axes.lines[0], axes.lines[1]
    for x, a, b in zip(computing.get_xdata(), computing.get_ydata(), against.get_ydata(), strict=True):
        assert a == limit.computing(x) and b == limit.against(x)
        assert (a >= b * (1 - 1e-9)) == (x >= limit.least * (1 - 1e-9))
    assert computing.get_linestyle() == against.get_linestyle() == "--"
    assert axes.lines[2].get_xdata()[0] == limit.least
    assert axes.patches[0].get_x() + axes.patches[0].get_width() == pytest.approx(limit.least)


def test_the_sentence_says_from_where_on_and_what_is_beside():
    figure = draw(threshold("data", "h100", 8), hardware="8 h100")
    assert figure.alt.startswith(
        "Modelled: data parallelism hides its messages from 1,923 tokens per rank and step on."
    )
    assert "at 192 computing takes 1.07 ms and messages 10.7 ms" in figure.alt
    assert "Modelled on 8 h100" in figure.get_supxlabel() and "latency" in figure.get_supxlabel()
    assert figure.axes[0].get_title() == "1,923 tokens per rank and step"


def test_where_no_size_is_enough_all_is_grey():
    figure = draw(threshold("pipeline", cluster("h100", devices_per_node=1, inter="internet"), 8))
    axes = figure.axes[0]
    assert axes.get_title() == "no size is enough" and "at no size" in figure.alt
    assert axes.patches[0].get_width() == pytest.approx(axes.get_xlim()[1] - axes.get_xlim()[0])


def test_anything_but_a_threshold_is_refused():
    with pytest.raises(ValueError, match="limit"):
        draw(1923.0)


def placed(**places):
    return {place: {mode: threshold(mode, on, 8) for mode in THRESHOLDS} for place, on in places.items()}


def test_beside_each_other_a_marker_says_how_far_above_its_threshold_a_size_is():
    have = dict.fromkeys(THRESHOLDS, 4000)
    limits = placed(near="h100", far=cluster("h100", devices_per_node=1))
    figure = thresholds(have, limits, hardware="8 h100")
    axes = figure.axes[0]
    for line, by_mode in zip(axes.lines, limits.values(), strict=False):
        assert list(line.get_xdata()) == [4000 / limit.least for limit in by_mode.values()]
    assert axes.patches[0].get_x() + axes.patches[0].get_width() == pytest.approx(1)
    assert [tick.get_text().split("\n")[0] for tick in axes.get_yticklabels()] == [
        x.mode for x in limits["near"].values()
    ]
    assert "near: data parallelism pays (4,000 of 1,923 tokens per rank and step)" in figure.alt
    assert "far: data parallelism does not (4,000 of 14,0" in figure.alt


def test_beside_each_other_a_mode_that_never_pays_stands_at_the_edge():
    figure = thresholds({"pipeline": 8}, placed(home=cluster("h100", devices_per_node=1, inter="internet")))
    axes = figure.axes[0]
    assert axes.lines[0].get_xdata()[0] == axes.get_xlim()[0] and "8 of no number of microbatches" in figure.alt


def test_beside_each_other_every_mode_wants_its_threshold():
    with pytest.raises(ValueError, match="limits"):
        thresholds({"data": 1}, {"near": {}})
