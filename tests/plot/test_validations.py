"""Predictions beside measurements: the marks are the pairs, the yardstick is a bar, sentences have no fitted number."""

from __future__ import annotations

import pytest

from llmlab.plot.validations import errors, parity

PAIRS = {"mine": ([1.0, 2.0, 40.0], [1.1, 2.0, 30.0]), "yours": ([0.5], [0.6])}
SCORED = {"constant": {"a": 0.06, "b": 0.2}, "fitted": {"a": 0.02, "b": 0.25}, "left out": {"a": 0.1, "b": 0.3}}


def test_every_pair_is_a_mark_around_the_line_of_equality():
    axes = parity(PAIRS).axes[0]
    equal, above, below, mine, yours = axes.lines
    assert list(equal.get_xdata()) == list(equal.get_ydata()) and equal.get_linestyle() == "-"
    assert list(above.get_ydata() / above.get_xdata()) == pytest.approx([1.25, 1.25])
    assert list(below.get_ydata() / below.get_xdata()) == pytest.approx([0.8, 0.8])
    assert (list(mine.get_xdata()), list(mine.get_ydata())) == PAIRS["mine"] and mine.get_linestyle() == "None"
    assert yours.get_marker() != mine.get_marker() and mine.get_label() == "mine (3)"
    assert equal.get_xdata()[0] < 0.5 and equal.get_xdata()[1] > 40


def test_axes_and_legend_say_what_is_measured_and_what_modelled():
    figure = parity(PAIRS)
    axes = figure.axes[0]
    assert axes.get_xlabel().startswith("measured") and axes.get_ylabel().startswith("modelled")
    assert figure.legends[0].get_title().get_text() == "modelled against measured"
    assert "4 published steps" in figure.alt and "mine 3 and yours 1" in figure.alt


def test_many_names_keep_marks_of_their_own():
    names = {f"software {i}": ([1.0], [1.0]) for i in range(18)}
    looks = {(line.get_color(), line.get_marker()) for line in parity(names).axes[0].lines[3:]}
    assert len(looks) == 18


def test_errors_are_marks_beside_the_bar_of_the_constant():
    figure = errors(SCORED)
    axes = figure.axes[0]
    bars = [line for line in axes.lines if line.get_linewidth() == 6 and len(line.get_xdata())]
    marks = [line for line in axes.lines if line.get_label() in SCORED]
    assert [list(bar.get_xdata()) for bar in bars] == [[0, 0.06], [0, 0.2]]
    assert {line.get_label(): list(line.get_xdata()) for line in marks} == {
        "fitted": [0.02, 0.25],
        "left out": [0.1, 0.3],
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert "fitted and left out" in figure.alt and "2 published tables" in figure.alt and "%" not in figure.alt


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: parity({}), "pairs as {name: .measured, modelled.}; got {}"),
        (lambda: parity({"mine": ([], [])}), "as many measured as modelled seconds"),
        (lambda: errors({"fitted": {"a": 0.1}}), "wants 'constant' among the scored"),
        (lambda: errors({"constant": {"a": 0.1}, "fitted": {"b": 0.1}}), "of the same tables"),
    ],
)
def test_nothing_to_compare_is_refused(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()
