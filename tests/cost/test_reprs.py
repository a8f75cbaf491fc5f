"""What a cell that ends in a result shows: a line or a small table, never a dump."""

from __future__ import annotations

import pytest
import torch

from llmlab.comm.simulator import Simulator
from llmlab.cost.planning import plan
from llmlab.cost.prediction import predict
from llmlab.parallel.layout import Layout


@pytest.fixture(scope="module")
def planned():
    return plan("gpt2", "a100", gpus=8, global_batch=16, seq=1024)


def test_a_prediction_is_one_line_and_a_table(planned):
    p = planned[0].prediction
    assert repr(p).startswith(f"Prediction({p.seconds:.4g} s a step, modelled; MFU") and len(repr(p)) < 120
    html = p._repr_html_()
    assert all(cause in html for cause, seconds in p.breakdown.items() if seconds > 0) and len(html) < 5000


def test_many_predictions_say_how_many_and_between_what():
    layouts = [Layout(dp=2), Layout(dp=1), Layout(tp=2)]
    p = predict("gpt2", layouts, "a100", global_batch=16, seq=1024)
    assert repr(p).startswith("Prediction(3 layouts, modelled: ") and p._repr_html_() == repr(p)


def test_a_plan_is_ten_lines_at_most_and_a_table_of_as_many(planned):
    shown = min(10, len(planned.shortlist))
    assert repr(planned) == str(planned) and len(repr(planned).splitlines()) == 2 + shown
    assert repr(planned).splitlines()[-1] == planned.advice and planned.advice in planned._repr_html_()
    html = planned._repr_html_()
    assert html.count("<tr>") == 1 + shown and "8 x a100" in html and "modelled" in html and "1e+09 tokens" in html
    assert len(repr(planned[0])) < 250 and repr(planned[0].prediction) in repr(planned[0])


def test_a_trace_says_its_size():
    trace = Simulator(ranks=4).run(sums).trace
    assert repr(trace) == f"Trace({len(trace)} events of 4 ranks on classroom (fictional), virtual)"


def sums(world):
    world.all_reduce(torch.ones(2))
