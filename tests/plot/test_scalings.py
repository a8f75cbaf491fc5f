"""Scaling curves: dashed since modelled, the interval around them, the ideal above; the sentence says the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmlab.cost.growing import efficiency, grow
from llmlab.cost.models import find_config
from llmlab.parallel.layout import Layout
from llmlab.plot.scalings import scaling

REPLICA = Layout(tp=4, zero=1, sequence_parallel=True, microbatches=64)


@pytest.fixture
def curves():
    model = find_config("llama2-13b")
    return {
        f"{work} scaling": grow(model, REPLICA, "a100", work=work, most=1024, global_batch=64, seq=2048)
        for work in ("strong", "weak")
    }


def test_curves_are_dashed_and_are_the_predictions(curves):
    top, bottom = scaling(curves, hardware="a100 cluster").axes
    ideal, strong, weak = top.lines[:3]
    assert strong.get_label() == "strong scaling: modelled" and strong.get_linestyle() == weak.get_linestyle() == "--"
    assert list(strong.get_ydata()) == [p.tokens_per_s for p in curves["strong scaling"].values()]
    assert list(bottom.lines[2].get_ydata()) == list(efficiency(curves["weak scaling"]).values())
    assert all(ideal.get_ydata()[-1] >= line.get_ydata()[-1] for line in (strong, weak))


def test_the_band_is_the_interval(curves):
    top, _ = scaling(curves).axes
    low, high = curves["strong scaling"][4].interval
    heights = top.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(64 * 2048 / high)
    assert any(height == pytest.approx(64 * 2048 / low) for height in heights)


def test_what_does_not_fit_is_crossed(curves):
    for curve in curves.values():
        curve[4] = replace(curve[4], capacity_bytes=1)
    crosses = [line for line in scaling(curves).axes[0].lines if line.get_label() == "does not fit"]
    assert len(crosses) == 1 and list(crosses[0].get_xdata()) == [4, 4]


def test_the_sentence_says_what_is_lost_and_to_what(curves):
    figure = scaling(curves, hardware="a100 cluster")
    share = efficiency(curves["strong scaling"])[256]
    assert f"on 256 GPUs, {share:.0%} of what a GPU does on 4; data traffic takes" in figure.alt
    assert figure.get_supxlabel().startswith("Modelled on a100 cluster")


def test_no_curve_is_refused():
    with pytest.raises(ValueError, match="curves as {name: {GPUs: prediction}}; got {}"):
        scaling({})
