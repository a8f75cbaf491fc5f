"""The roofline explorer: its kernels are the layer's, and every slider moves them."""

from __future__ import annotations

import pytest

from llmlab.cost.kernels import layer_kernels
from llmlab.cost.models import find_config
from llmlab.widgets import roofline_explorer
from llmlab.widgets.rooflines import draw_roofline


def test_the_marks_are_the_layers_kernels():
    roof, _ = draw_roofline(None, "llama3-8b", "a100", 2, 1024, 4, "bf16").axes
    kernels = layer_kernels(find_config("llama3-8b"), 2, 1024, tp=4)
    marks = [line.get_xdata()[0] for line in roof.lines if "modelled" in line.get_label()]
    assert marks == [kernel.intensity for kernel in kernels]


def test_one_token_at_a_time_is_bound_by_memory():
    assert "bound by computing none" in draw_roofline(None, "llama3-8b", "h100", 1, 1, 1, "bf16").alt


def test_every_slider_changes_the_sentence_or_the_picture(displayed):
    box = roofline_explorer(batch=2, seq=64, tp=2)
    *sliders, view, said = box.children
    assert [slider.description for slider in sliders] == [
        "model", "device", "sequences", "tokens a sequence", "tensor (tp)", "number type",
    ]  # fmt: skip
    for slider in sliders:
        before = view.value
        slider.index = slider.index - 1 if slider.index else 1
        assert view.value != before and said.value
    assert displayed[0]["text/plain"].startswith("The roof of NVIDIA H100")


def test_a_device_without_the_number_type_is_priced_at_the_next_wider():
    assert "one core of a laptop" in draw_roofline(None, "gpt2", "laptop", 1, 64, 1, "bf16").alt


def test_a_start_that_is_no_choice_is_refused(displayed):
    with pytest.raises(ValueError, match="is one of"):
        roofline_explorer("gpt9000")
