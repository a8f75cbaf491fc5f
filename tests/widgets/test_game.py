"""The layout game: fits or not, a score, a code to compare, and a reason for what is no layout."""

from __future__ import annotations

import pytest

from llmlab.cost import predict
from llmlab.plot.predictions import CAUSES
from llmlab.widgets import layout_game
from llmlab.widgets.game import BATCH, GPUS, MODEL, describe_move, draw_move, play
from llmlab.widgets.models import MODELS, SEQ


def test_plain_data_parallelism_does_not_fit_and_scores_nothing():
    move = play(1, 1, 0)
    assert not move.prediction.fits and move.score == 0 and move.code == "d64t1p1z0-0"
    assert describe_move(move).startswith("One GPU needs 2.") and "it does not fit" in describe_move(move)


def test_a_layout_that_fits_is_scored_by_its_mfu_and_priced():
    move = play(4, 8, 1, price=2.0)
    expected = predict(MODELS[MODEL], move.layout, "a100", global_batch=BATCH, seq=SEQ, stack="ideal")
    assert move.prediction.seconds == expected.seconds and move.layout.ranks == GPUS
    assert move.score == round(1000 * expected.mfu) > 400
    assert move.cost == pytest.approx(1e9 / (BATCH * SEQ) * expected.seconds * GPUS / 3600 * 2.0)
    assert move.code == f"d2t4p8z1-{move.score}" and move.code in describe_move(move)


def test_layouts_differ_enough_to_make_a_game():
    cuts = [(tp, pp) for tp in (1, 4, 8) for pp in (1, 4, 8, 16, 32, 64) if tp * pp <= GPUS]
    legal = [play(tp, pp, zero) for tp, pp in cuts for zero in (0, 1, 3)]
    scores = {move.score for move in legal}
    assert 0 in scores and len(scores) > 6 and max(scores) > 1.3 * sorted(scores)[1]


@pytest.mark.parametrize(("layout", "why"), [((16, 8, 1), "wants 128 GPUs, and there are 64"), ((64, 1, 0), "n_head")])
def test_what_is_no_layout_is_explained(layout, why):
    move = play(*layout)
    assert move.prediction is None and move.score == 0 and move.code == "none"
    assert why in describe_move(move) and why in draw_move(move).axes[0].texts[0].get_text().replace("\n", " ")


def test_the_bars_add_up_to_the_prediction():
    move = play(4, 8, 1)
    memory, time = draw_move(move).axes
    assert sum(bar.get_width() for bar in memory.patches) == pytest.approx(move.prediction.memory_bytes / 2**30)
    assert memory.lines[0].get_xdata()[0] == 80
    assert sum(bar.get_width() for bar in time.patches) == pytest.approx(move.prediction.seconds)


def test_every_cause_the_predictor_knows_is_drawn():
    move = play(4, 8, 1)
    known = {cause for causes in CAUSES.values() for cause in causes}
    assert {cause for cause, seconds in move.prediction.breakdown.items() if seconds} <= known


def test_the_game_remembers_the_best_move(displayed):
    box = layout_game()
    tp, pp, zero, _, said = box.children
    assert "best so far" not in said.value
    zero.value, tp.value, pp.value = 1, 4, 8
    best = play(4, 8, 1).code
    assert said.value.count(best) == 2
    pp.value = 32
    assert "Not a layout" in said.value and f"Your best so far: {best}." in said.value


def test_any_single_move_leaves_a_layout_because_dp_follows():
    for tp, pp in ((1, 1), (2, 1), (8, 1), (8, 8), (4, 8), (4, 16)):
        assert play(tp, pp, 0).layout.ranks == GPUS


def test_a_colour_means_one_thing_in_both_bars():
    memory, time = draw_move(play(4, 8, 1)).axes
    assert not {bar.get_facecolor() for bar in memory.patches} & {bar.get_facecolor() for bar in time.patches}
    words = {text.get_text() for text in memory.get_legend().get_texts()}
    assert "optimizer state" in words and not words & {"working", "runtime"}
