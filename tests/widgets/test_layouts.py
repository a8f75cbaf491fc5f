"""The layout explorer: every slider position is a step that was simulated, or a reason why it is no layout."""

from __future__ import annotations

from llmlab.widgets import layout_explorer
from llmlab.widgets.layouts import describe_layout, draw_layout, lay_out


def test_a_layout_is_simulated_and_said_in_a_sentence():
    laid, alone = lay_out(dp=2, pp=2, microbatches=4), lay_out()
    assert laid.run.ranks == 4 and 0 < laid.seconds < alone.seconds
    text = describe_layout(laid, alone)
    assert text.startswith("4 ranks, modelled: a step takes") and "along dp" in text and "along pp" in text
    assert draw_layout(laid, alone).alt == text


def test_what_is_no_layout_is_explained():
    laid = lay_out(dp=4, microbatches=8)
    assert laid.run is None and "does not split over dp=4 x microbatches=8" in laid.why
    assert laid.why in draw_layout(laid, lay_out()).alt


def test_more_than_16_ranks_are_refused_because_they_are_too_many_to_draw():
    assert "got a world of 16" in lay_out(dp=4, tp=4, pp=2).why


def test_the_explorer_follows_its_sliders():
    box = layout_explorer()
    sliders = {child.description: child for child in box.children if hasattr(child, "options")}
    sliders["pipeline (pp)"].value = 1
    assert "2 ranks" in box.children[-1].value
