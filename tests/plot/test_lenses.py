"""The logit lens, drawn: read from the artists."""

from __future__ import annotations

import pytest
import torch

from llmlab.interpreting import TopTokens
from llmlab.plot import logit_lens

TOP = TopTokens(
    ["The", " $x", "\n"], [["a", "b", "c"], ["d", "e", " Paris"], ["f", "g", " Paris"]], torch.arange(9).view(3, 3) / 10
)


def test_the_last_layer_is_on_top_and_each_square_has_its_word():
    axes = logit_lens(TOP).axes[0]
    assert [text.get_text() for text in axes.texts] == ["f", "g", "·Paris", "d", "e", "·Paris", "a", "b", "c"]
    assert axes.images[0].get_array()[0].tolist() == pytest.approx([0.6, 0.7, 0.8])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["The", "·$x", "¶"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "1", "0"]


def test_its_sentence_says_since_when_the_answer_stands():
    figure = logit_lens(TOP, every=2)
    assert "says ' Paris' with probability 0.80" in figure.alt and "from layer 1 on" in figure.alt
    assert len(figure.axes[0].texts) == 6


def test_other_tables_are_refused():
    with pytest.raises(ValueError, match="top_tokens"):
        logit_lens([["a"]])
