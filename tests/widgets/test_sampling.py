"""The sampling explorer: every slider changes what is drawn from, on recorded tokens and on a model's own."""

from __future__ import annotations

import pytest
import torch

from llmlab.generation.next_tokens import NextTokens
from llmlab.widgets.sampling import sampling_explorer


def test_every_slider_changes_the_sentence(displayed):
    *sliders, view, said = sampling_explorer().children
    assert [slider.description for slider in sliders] == ["prompt", "temperature", "top-k", "top-p"]
    for slider, index in zip(sliders, (1, 0, 3, 2), strict=True):
        before, at = said.value, slider.index
        slider.index = index
        assert said.value != before and view.value
        slider.index = at
        assert said.value == before
    assert displayed[0]["text/plain"].startswith("After “The capital of France is” 500 of 500 tokens can come")


def test_a_model_of_ones_own_can_be_asked(displayed):
    mine = NextTokens("hello", [" world", "!"], torch.tensor([1.0, 0.0]), "mine")
    *_, said = sampling_explorer([mine], temperature=2.0).children
    assert "After “hello” 2 of 2 tokens can come: “ world” 0.62" in said.value


def test_no_prompt_and_no_such_temperature_are_refused(displayed):
    with pytest.raises(ValueError, match="at least one prompt"):
        sampling_explorer([])
    with pytest.raises(ValueError, match="temperature is one of"):
        sampling_explorer(temperature=0.95)
