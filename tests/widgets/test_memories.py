"""The memory explorer: its bars are the predictor's, recomputing keeps less, and every slider moves something."""

from __future__ import annotations

import pytest

from llmlab.widgets.memories import by_category, memory_explorer, memory_of
from llmlab.widgets.models import MODELS


def activations(recompute, attention="fused"):
    return memory_of("1.3B", 4, 2048, 1, attention, recompute).memory["activations"]


def test_selective_recomputation_of_written_out_attention_keeps_what_fused_attention_keeps():
    assert activations("selective", "written out") == activations("none") < activations("none", "written out")


def test_full_recomputation_keeps_each_layers_input():
    config = MODELS["1.3B"]
    assert activations("full") == pytest.approx(config.n_layer * 2 * 4 * 2048 * config.d_model)


def test_gpus_share_the_states_and_not_the_activations():
    alone, shared = (by_category(memory_of("7B", 1, 2048, gpus, "fused", "none")) for gpus in (1, 64))
    assert shared["optimizer state"] == pytest.approx(alone["optimizer state"] / 64)
    assert shared["activations"] == alone["activations"]


def test_the_sentence_says_what_fits_and_what_recomputing_costs(displayed):
    memory_explorer("13B", gpus=64)
    said = displayed[0]["text/plain"]
    assert said.startswith("A 13B model, 8 x 2,048 tokens on each of 64 GPUs.")
    assert "more FLOPs. Memory of a rank: no recomputation" in said
    assert "into the 80 GiB of a device" in said


def test_every_slider_changes_the_sentence(displayed):
    box = memory_explorer()
    *sliders, view, said = box.children
    names = ["model", "sequences", "tokens a sequence", "GPUs (ZeRO-3)", "attention"]
    assert [slider.description for slider in sliders] == names
    for slider in sliders:
        before = said.value
        slider.index = slider.index + 1
        assert said.value != before and view.value
