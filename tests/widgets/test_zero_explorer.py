"""The bars of ZeRO: they are the paper's, and every slider moves them."""

from __future__ import annotations

import pytest

from llmlab.cost.modes.zero import model_states, wire_bytes
from llmlab.widgets import zero_explorer
from llmlab.widgets.models import MODELS
from llmlab.widgets.zero import kept


def test_the_bytes_are_those_of_the_papers_figure_1():
    """7.5 billion parameters on 64 ranks: 120, 31.4, 16.6 and 1.9 GB (Rajbhandari et al. 2020)."""
    totals = [sum(model_states(7.5e9, 64, stage).values()) / 1e9 for stage in range(4)]
    assert totals == pytest.approx([120, 31.4, 16.6, 1.9], rel=0.02)


def test_stage_3_sends_half_as_much_again_and_the_others_what_an_all_reduce_sends():
    sent = [wire_bytes(1000, 4, stage, 2) for stage in range(4)]
    assert sent == [3000, 3000, 3000, 4500]


def test_one_rank_shards_nothing():
    assert len({sum(parts.values()) for parts in kept("125M", 1, "Adam").values()}) == 1
    assert sum(kept("125M", 1, "SGD")["ZeRO-3"].values()) == 8 * MODELS["125M"].n_param


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="stage as one of 0, 1, 2, 3; got 4"):
        model_states(1000, 4, 4)


def test_every_slider_changes_the_sentence(displayed):
    box = zero_explorer(optimizer="momentum")
    *sliders, view, said = box.children
    assert [slider.description for slider in sliders] == ["model", "ranks", "optimizer"]
    for slider in sliders:
        before = said.value
        slider.index = slider.index + 1
        assert said.value != before and view.value
    assert displayed[0]["text/plain"].startswith("A 7.5B model with momentum on 64 ranks.")
