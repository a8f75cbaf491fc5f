"""Bars of a predicted step: they add up, every term is under a word, and the sentence says what fits."""

from __future__ import annotations

import pytest

from llmlab.cost import predict
from llmlab.cost.models import find_config
from llmlab.cost.step import TERMS
from llmlab.parallel.layout import Layout
from llmlab.plot.predictions import CAUSES, by_cause, describe_prediction, prediction, refusal

LAYOUT = Layout(dp=2, tp=4, pp=2, cp=2, zero=1, microbatches=8)


@pytest.fixture
def step():
    return predict(find_config("llama2-7b"), LAYOUT, "a100", global_batch=32, seq=4096)


def test_every_term_of_the_predictor_is_under_one_word():
    assert sorted(term for terms in CAUSES.values() for term in terms) == sorted(TERMS)


def test_the_bars_add_up_to_the_prediction(step):
    memory, time = prediction(step, "a step", hardware="a100 cluster").axes
    assert sum(bar.get_width() for bar in memory.patches) == pytest.approx(step.memory_bytes / 2**30)
    assert memory.lines[0].get_xdata()[0] == 80
    assert sum(bar.get_width() for bar in time.patches) == pytest.approx(step.seconds)
    assert sum(by_cause(step).values()) == pytest.approx(step.seconds)


def test_the_caption_says_modelled_and_the_sentence_what_fits(step):
    figure = prediction(step, "a step", hardware="a100 cluster", note="A note.")
    assert figure.get_supxlabel().startswith("Modelled on a100 cluster, virtual clock. A note.")
    assert figure.alt == describe_prediction(step) and "it fits" in figure.alt and "in nine of ten cases" in figure.alt
    alone = predict(find_config("llama2-7b"), Layout(), "a100", global_batch=1, seq=4096)
    assert "does not fit" in describe_prediction(alone)


def test_what_is_no_layout_is_written_instead():
    figure = refusal("dp wants more")
    assert figure.alt == "Not a layout: dp wants more." and figure.axes[0].texts[0].get_text() == "dp wants more"
