"""Which cause a measured step points to: the factors explain it exactly, and the likeliest is the least surprising."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from llmlab.cost.explaining import LOOK, explain, unhidden
from llmlab.cost.prediction import predict
from llmlab.cost.step import TERMS
from llmlab.parallel.layout import Layout


@pytest.fixture
def step():
    layout = Layout(dp=2, tp=8, pp=4, zero=1, microbatches=32)
    return predict("llama3-70b", layout, "h100", global_batch=64, seq=8192)


def test_every_term_has_something_to_measure():
    assert sorted(LOOK) == sorted(TERMS)


def test_each_factor_alone_explains_the_whole_difference(step):
    for suspect in explain(step, 1.4 * step.seconds):
        slower = {**step.breakdown, suspect.cause: suspect.seconds * suspect.factor}
        assert replace(step, breakdown=slower).seconds == pytest.approx(1.4 * step.seconds, rel=1e-12)


def test_a_step_as_predicted_accuses_nobody(step):
    assert all(suspect.factor == pytest.approx(1) for suspect in explain(step, step.seconds))


def test_the_least_surprising_is_first(step):
    suspects = explain(step, 1.4 * step.seconds)
    assert [s.widths for s in suspects] == sorted(s.widths for s in suspects)
    matmul = next(s for s in suspects if s.cause == "matmul")
    assert matmul.widths == pytest.approx(log(matmul.factor) / 0.1)


def test_what_is_too_short_cannot_explain_a_quick_step(step):
    suspects = {s.cause: s for s in explain(step, 0.8 * step.seconds)}
    assert suspects["optimizer"].factor is None and suspects["matmul"].factor < 1
    assert list(suspects)[0] != "optimizer"


def test_hidden_traffic_is_what_a_step_without_overlap_adds(step):
    assert unhidden(step) == pytest.approx(sum(step.hidden.values()))


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "26.6"])
def test_a_measured_step_takes_some_time(step, seconds):
    with pytest.raises(ValueError, match="measured_s"):
        explain(step, seconds)
