"""Layout: what is legal, and that an illegal one says why and what would be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmlab.parallel.layout import Layout

CONFIG = SimpleNamespace(n_layer=4, n_head=8, n_kv_head=4, d_ff=256, n_expert=0)
EXPERTS = SimpleNamespace(n_layer=4, n_head=8, n_kv_head=4, d_ff=256, n_expert=6)


def test_a_layout_by_default_is_one_process():
    assert Layout().ranks == 1
    Layout().check(CONFIG, batch=3, seq=17, world_size=1)


def test_the_world_is_dp_tp_pp_cp_and_experts_fold_inside():
    layout = Layout(dp=2, tp=3, pp=5, cp=7, ep=14)
    assert layout.ranks == 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    "layout, batch, seq, world",
    [
        (Layout(dp=2, tp=2, pp=2, zero=1, sequence_parallel=True, microbatches=4), 8, 64, 8),
        (Layout(tp=4, pp=2, cp=2, zero=3, schedule="zb_h1", microbatches=3), 6, 16, 16),
        (Layout(pp=2, schedule="interleaved", virtual_stages=2, microbatches=4), 4, 5, 2),
        (Layout(pp=3), 1, 9, 3),  # stages need not be even
        (Layout(zero=3), 1, 9, 1),
        (Layout(tp=8), 8, 64, 8),  # fewer key heads than ranks
        (Layout(pp=4, schedule="gpipe", zero=2, microbatches=2), 2, 9, 4),
    ],
)
def test_legal_layouts_pass(layout, batch, seq, world):
    layout.check(CONFIG, batch, seq, world)


@pytest.mark.parametrize(
    "layout, batch, seq, world, says",
    [
        (Layout(dp=2), 8, 64, 4, "is 2 ranks, got a world of 4; legal: dp = 4"),
        (Layout(tp=2), 8, 64, 3, "is 2 ranks, got a world of 3$"),
        (Layout(dp=2, microbatches=3), 8, 64, 2, "batch of 8 .*legal: batch = 6 or 12"),
        (Layout(dp=4), 3, 64, 4, "legal: batch = 4$"),
        (Layout(cp=2), 8, 62, 2, "2 x cp=2 slices; legal: seq = 60 or 64"),
        (Layout(tp=4, sequence_parallel=True), 8, 62, 4, "seq / cp = 62 over tp=4.*legal: seq = 60 or 64"),
        (Layout(tp=4, cp=2, sequence_parallel=True), 8, 20, 8, "seq / cp = 10 over tp=4.*legal: seq = 16 or 24"),
        (Layout(pp=2, schedule="interleaved", virtual_stages=2, microbatches=3), 6, 64, 2, "microbatches = 2 or 4"),
        (Layout(pp=5), 8, 64, 5, "5 stages want a layer each, got n_layer=4"),
        (Layout(pp=2, schedule="interleaved", virtual_stages=3, microbatches=2), 8, 64, 2, "= 6 stages"),
        (Layout(tp=3), 8, 64, 3, "n_head=8 does not split over tp=3; legal: tp = 1, 2, 4, 8"),
        (Layout(tp=6), 8, 64, 6, "n_head=8 does not split over tp=6"),
        (Layout(cp=3, context="ulysses"), 8, 6, 3, "n_head / tp = 8 heads over cp=3: .*legal: cp = 1, 2, 4, 8"),
        (Layout(dp=2, ep=3), 8, 64, 2, "dp x cp = 2 and must divide it, got ep=3; legal: ep = 1, 2"),
        (Layout(dp=2, ep=2), 8, 64, 2, "got n_expert=0; legal: ep = 1$"),
    ],
)
def test_an_illegal_layout_says_why_and_what_would_be_legal(layout, batch, seq, world, says):
    with pytest.raises(ValueError, match=says):
        layout.check(CONFIG, batch, seq, world)


def test_experts_split_evenly_or_not_at_all():
    Layout(dp=3, ep=3).check(EXPERTS, 3, 64, 3)
    with pytest.raises(ValueError, match="ep=4 splits the experts, got n_expert=6; legal: ep = 1, 2, 3, 6"):
        Layout(dp=4, ep=4).check(EXPERTS, 4, 64, 4)


def test_the_world_need_not_be_known():
    Layout(dp=2).check(CONFIG, 8, 64)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"dp": 0}, "dp as a whole number of at least 1; got 0"),
        ({"zero": 4}, "zero as a whole number from 0 to 3; got 4"),
        ({"schedule": "1F2B"}, "'gpipe', '1f1b', .*; got '1F2B'; did you mean '1f1b'"),
        ({"virtual_stages": 2}, "virtual_stages=2 wants schedule='interleaved', got '1f1b'"),
    ],
)
def test_a_degree_that_makes_no_sense_is_refused_at_once(wrong, says):
    with pytest.raises(ValueError, match=says):
        Layout(**wrong)
