"""Any layout on any cluster, beside the planner's best; and scaling to 16,384 GPUs."""

from __future__ import annotations

import pytest

from llmlab.cost import predict
from llmlab.cost.models import find_config
from llmlab.cost.planning import plan
from llmlab.hardware import clusters
from llmlab.parallel.layout import Layout
from llmlab.widgets import prediction_explorer, scaling_explorer
from llmlab.widgets.planner import CLUSTERS, MODELS, best_of, draw_prediction, draw_scaling, predict_ways

WAYS = {"tp": 4, "pp": 2, "cp": 1, "ep": 1, "zero": 1, "size": 2, "schedule": "interleaved", "recompute": "full"}
STEP = ("llama3-8b", "a100", 16, 32, 4096)


def test_dp_is_what_is_left_and_the_numbers_are_the_predictors():
    layout, p = predict_ways(*STEP, **WAYS)
    ways = {"sequence_parallel": True, "schedule": "interleaved", "virtual_stages": 2, "microbatches": 8}
    assert layout == Layout(dp=2, tp=4, pp=2, zero=1, **ways)
    assert p == predict(find_config("llama3-8b"), layout, "a100", global_batch=32, seq=4096, recompute="full")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tp": 32}, "tp=32 x pp=2 x cp=1 = 64 does not divide 16 GPUs"),
        ({"size": 32}, "a batch of 32 does not split over dp=2 x 32 sequences at a time"),
        ({"ep": 2}, "ep=2 splits the experts"),
    ],
)
def test_what_is_no_layout_is_explained_beside_the_planners_best(wrong, says):
    figure = draw_prediction(*STEP, {**WAYS, **wrong})
    assert says in figure.alt and "The planner's best takes" in figure.alt


def test_the_sentence_compares_with_the_planners_best():
    best = plan(find_config("llama3-8b"), "a100", gpus=16, global_batch=32, seq=4096)[0]
    assert best_of(*STEP).layout == best.layout
    ratio = predict_ways(*STEP, **WAYS)[1].seconds / best.prediction.seconds
    assert f"yours takes {ratio:.2f} times as long" in draw_prediction(*STEP, WAYS).alt and ratio > 1
    assert "The planner: no layout fits on 1 x v100" in draw_prediction("megatron-1t", "v100", 1, 1, 512, WAYS).alt


def test_the_choices_are_known_names():
    assert all(find_config(name) for name in MODELS) and set(CLUSTERS) <= set(clusters())


def test_the_prediction_explorer_follows_its_sliders(displayed):
    box = prediction_explorer("llama3-8b", "h100", gpus=16, global_batch=64)
    sliders = {slider.description: slider for slider in box.children[:-2]}
    assert list(sliders)[:3] == ["model", "cluster", "GPUs"] and len(sliders) == 13
    for name, value in (("tensor (tp)", 2), ("ZeRO stage", 3), ("recompute", "full"), ("cluster", "b200")):
        before = box.children[-1].value
        sliders[name].value = value
        assert box.children[-1].value != before
    assert "modelled" in displayed[0]["text/plain"].lower()


def test_the_scaling_explorer_reaches_16384_gpus(displayed):
    box = scaling_explorer("llama3-8b")
    assert "on 16,384 GPUs" in box.children[-1].value
    sliders = {slider.description: slider for slider in box.children[:-2]}
    sliders["tensor (tp)"].value = 64
    assert "Not a layout: n_head=32 does not split over tp=64" in box.children[-1].value


def test_weak_scaling_is_flatter_than_strong():
    bottom = draw_scaling("llama3-8b", "h100", 4096, 1024, 4096, 2, 1, 1).axes[1]
    _, strong, weak = (line.get_ydata()[-1] for line in bottom.lines)
    assert strong < weak
