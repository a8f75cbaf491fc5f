"""Shares of a step as GPUs are added: they are the prediction's, and each bar is whole."""

from __future__ import annotations

import pytest

from llmlab.cost.growing import grow
from llmlab.cost.models import find_config
from llmlab.parallel.layout import Layout
from llmlab.plot.growths import growth
from llmlab.plot.predictions import by_cause


@pytest.fixture
def curve():
    replica = Layout(tp=4, zero=1, sequence_parallel=True, microbatches=64)
    return grow(find_config("llama2-13b"), replica, "a100", most=256, global_batch=64, seq=2048, stack="ideal")


def test_bars_are_shares_by_cause_and_add_up_to_the_whole_step(curve):
    axes = growth(curve).axes[0]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    for i, p in enumerate(curve.values()):
        expected = {cause: seconds / p.seconds for cause, seconds in by_cause(p).items()}
        assert {cause: column[i] for cause, column in heights.items()} == pytest.approx(
            {cause: expected[cause] for cause in heights}
        )
        assert sum(column[i] for column in heights.values()) == pytest.approx(1)
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{n:,}" for n in sorted(curve)]


def test_causes_that_cost_nothing_are_left_out_of_the_legend(curve):
    assert "pipeline bubble" not in [bars.get_label() for bars in growth(curve).axes[0].containers]


def test_the_sentence_names_what_costs_most_at_both_ends(curve):
    figure = growth(curve, hardware="a100 cluster", note="13B.")
    assert "tensor traffic on 4 GPUs, and to data traffic on 256 GPUs" in figure.alt
    assert figure.get_supxlabel().startswith("Modelled on a100 cluster") and figure.get_supxlabel().endswith("13B.")


def test_no_prediction_is_refused():
    with pytest.raises(ValueError, match="curve as {GPUs: prediction}; got {}"):
        growth({})
