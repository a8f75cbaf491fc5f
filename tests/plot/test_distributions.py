"""The next token's bars, read from the artists: what is drawn from and what the model gives."""

from __future__ import annotations

import pytest
import torch

from llmlab.generation.next_tokens import NextTokens
from llmlab.plot.distributions import next_token_bars

HALVES = NextTokens("one", [" two", "\n", " three", "!"], torch.tensor([0.5, 0.25, 0.125, 0.125]).log(), "A test.")


def widths(figure):
    filled, outlined = figure.axes[0].containers
    return [bar.get_width() for bar in filled], [bar.get_width() for bar in outlined]


def test_without_a_choice_both_bars_are_the_models():
    filled, outlined = widths(next_token_bars(HALVES))
    assert filled == outlined == pytest.approx([0.5, 0.25, 0.125, 0.125])


def test_temperature_top_k_and_top_p_change_what_is_drawn_from_only():
    filled, outlined = widths(next_token_bars(HALVES, temperature=0.5, top_k=2))
    assert filled == pytest.approx([0.8, 0.2, 0, 0]) and outlined[0] == pytest.approx(0.5)
    filled, _ = widths(next_token_bars(HALVES, top_p=0.6))
    assert filled == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_cut_tokens_are_said_to_be_cut_and_unprintable_ones_are_spelled():
    (axes,) = next_token_bars(HALVES, top_k=1).axes
    assert [text.get_text() for text in axes.texts] == [" 1.000", " cut", " cut", " cut"]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["“ two”", "“\\n”"]


def test_the_sentence_counts_what_is_left_and_how_open_it_is():
    even = next_token_bars(HALVES, top_k=2, temperature=1e6).alt
    assert even.startswith(
        "After “one” 2 of 4 tokens can come: “ two” 0.50 and “\n” 0.50; as open as a choice among 2 "
    )
    assert next_token_bars(HALVES, top_p=0.1).alt.endswith("as open as a choice among 1 equally likely ones.")


def test_only_the_likeliest_are_shown():
    filled, _ = widths(next_token_bars(HALVES, show=2))
    assert len(filled) == 2
