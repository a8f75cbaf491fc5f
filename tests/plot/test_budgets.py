"""Loss against the size a budget is spent on: its lowest point is marked and said."""

from __future__ import annotations

import pytest

from llmlab.plot.budgets import losses_by_size, say_params


def test_losses_have_their_lowest_point_marked_and_said():
    curves = {"one law": ([1e9, 1e10, 1e11], [2.2, 2.0, 2.1])}
    figure = losses_by_size(curves, {"one law": (1e10, 2.0)})
    line, mark = figure.axes[0].lines
    assert list(line.get_ydata()) == [2.2, 2.0, 2.1] and (mark.get_xdata()[0], mark.get_ydata()[0]) == (1e10, 2.0)
    assert "one law lowest at 10B with 2.00 nats" in figure.alt


def test_a_curve_without_its_best_is_refused():
    with pytest.raises(ValueError, match="best as {name: .parameters, nats.}; got"):
        losses_by_size({"one": ([1e9], [2.0])}, {})


@pytest.mark.parametrize(
    ("n", "said"), [(70e9, "70B"), (1.008e12, "1.01T"), (124e6, "124M"), (999.9e6, "1B"), (512, "512")]
)
def test_parameters_are_written_as_papers_do(n, said):
    assert say_params(n) == said
