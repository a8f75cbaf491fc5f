"""Which layouts a prediction can tell apart: what they share cancels, what they do not is uncertain."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmlab.cost import predict
from llmlab.cost.calibration import WIDTHS
from llmlab.cost.comparing import WIDTH, apart, doubt, exposure, measurements, tied
from llmlab.cost.risk import SIGMA, risk
from llmlab.cost.stack import stack
from llmlab.parallel.layout import Layout

PLAIN = Layout(dp=32, tp=4, pp=4, sequence_parallel=True, microbatches=8)
LAYOUTS = [PLAIN, dataclasses.replace(PLAIN, zero=1), Layout(dp=512, zero=3, microbatches=1)]


@pytest.fixture(scope="module")
def steps():
    return [predict("llama3-70b", layout, "h100", global_batch=512, seq=4096) for layout in LAYOUTS]


def test_every_second_of_a_step_follows_one_constant(steps):
    for p in steps:
        assert exposure(p).sum() == pytest.approx(1)
    many = predict("llama3-70b", LAYOUTS, "h100", global_batch=512, seq=4096)
    alone = np.concatenate([exposure(p) for p in steps], axis=1)
    assert exposure(many) == pytest.approx(alone)


def test_the_exposure_is_how_seconds_move_with_a_constant(steps):
    # 1% less of the bandwidth between nodes makes traffic that nothing hides 1% longer
    typical = stack("typical")
    slower = dataclasses.replace(typical, inter=typical.inter / 1.001)
    again = predict("llama3-70b", LAYOUTS[1], "h100", global_batch=512, seq=4096, stack=slower)
    moved = np.log(again.seconds / steps[1].seconds) / np.log(1.001)
    exposed = exposure(steps[1])[list(WIDTH).index("inter"), 0]
    hidden = sum(steps[1].hidden.values()) / steps[1].seconds
    assert 0 < moved <= exposed + hidden  # latency does not move, and what is hidden may


def test_what_layouts_share_cancels(steps):
    exposed = np.concatenate([exposure(p) for p in steps], axis=1)
    assert apart(exposed, 0)[0] == 0
    assert apart(exposed, 0)[1] < 0.3 * doubt(exposed)[0] < doubt(exposed)[0]  # alike but for ZeRO's first stage
    assert apart(exposed, 0)[2] > apart(exposed, 0)[1]  # another way to split altogether


def test_ties_are_those_within_the_error_of_the_difference():
    matmul, inter = np.zeros((len(WIDTH), 1)), np.zeros((len(WIDTH), 1))
    matmul[list(WIDTH).index("matmul")] = inter[list(WIDTH).index("inter")] = 1.0
    exposed = np.concatenate([matmul, matmul, inter], axis=1)
    width = 1.645 * np.hypot(WIDTHS["matmul"], WIDTHS["inter"])
    assert tied(np.array([1, 1 + 1e-9, np.exp(width - 0.01)]), exposed).tolist() == [True, False, True]
    assert tied(np.array([1, 1, np.exp(width + 0.01)]), exposed).tolist() == [True, True, False]


def test_what_to_measure_is_what_the_layouts_do_not_share(steps):
    first, second = measurements(steps)
    assert 0.99 >= first.decides > second.decides > 0 and first.decides + second.decides <= 1
    assert set(first.terms) <= set(steps[0].breakdown) and "decides" in str(first)
    assert measurements(steps[:1]) == []  # nothing to tell apart
    assert len(measurements([steps[0], steps[0], steps[2]], most=1)) == 1


def test_the_risk_of_running_out_is_even_at_the_limit():
    assert risk(80.0, 80.0) == pytest.approx(0.5)
    # one sigma below: 16 in a hundred of a normal distribution
    assert risk(80.0 * np.exp(-SIGMA), 80.0) == pytest.approx(0.159, abs=0.01)
    assert risk(80.0 * np.exp(2 * SIGMA), 80.0) == pytest.approx(0.977, abs=0.01)
    found = risk(np.array([20.0, 70.0, 90.0]), 80.0)
    assert (np.diff(found) > 0).all() and found[0] < 1e-4
