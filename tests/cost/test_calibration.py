"""Calibration: what one measured row moves, and what many find."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmlab.cost import Measured, Stack, calibrate, predict, stacks
from llmlab.cost.calibration import residual_spread
from llmlab.cost.stack import CONSTANTS, stack
from llmlab.hardware import cluster
from llmlab.model import Config
from llmlab.parallel.layout import Layout

CONFIG = Config(vocab_size=51200, d_model=4096, n_layer=32, n_head=32, max_seq=2048)
LAYOUTS = [
    Layout(), Layout(tp=8), Layout(dp=8), Layout(dp=64), Layout(tp=4, pp=4, microbatches=8), Layout(dp=16, zero=3),
    Layout(dp=2, microbatches=32), Layout(tp=8, dp=8, microbatches=8),
]  # fmt: skip


def measured(layout: Layout, truth: Stack, noise: float = 1.0, recompute: str = "none") -> Measured:
    p = predict(CONFIG, layout, "a100", global_batch=64, seq=2048, recompute=recompute, stack=truth)
    return Measured(CONFIG, layout, noise * p.seconds, 64, 2048, recompute=recompute)


def test_one_row_brings_its_own_kind_close():
    truth = dataclasses.replace(Stack(), matmul=0.7, memory=0.6)
    before = predict(CONFIG, Layout(dp=2), "a100", global_batch=64, seq=2048, stack="ideal").seconds
    row = measured(Layout(), truth)
    found = calibrate("a100", row, stack="ideal")
    after = predict(CONFIG, Layout(dp=2), "a100", global_batch=64, seq=2048, stack=found).seconds
    wanted = measured(Layout(dp=2), truth).seconds
    assert abs(after / wanted - 1) < 0.3 * abs(before / wanted - 1)
    assert found.inter == pytest.approx(1.0, abs=1e-3)  # one device says nothing of the network
    assert found.name == "calibrated"


def test_many_rows_find_the_constants():
    truth = Stack(matmul=0.8, memory=0.7, intra=0.6, inter=0.8, host=6.0, congestion=0.02)
    rows = [measured(layout, truth, recompute=r) for layout in LAYOUTS for r in ("none", "full")]
    found = calibrate("a100", rows, stack=dataclasses.replace(Stack(), host=3.0))
    for row in rows:
        p = predict(CONFIG, row.layout, "a100", global_batch=64, seq=2048, recompute=row.recompute, stack=found)
        assert p.seconds == pytest.approx(row.seconds, rel=0.06)
    assert found.matmul == pytest.approx(0.8, rel=0.08) and found.spread < Stack().spread


def test_a_row_already_predicted_moves_nothing():
    found, start = calibrate("a100", measured(Layout(tp=8), stack("typical"))), stack("typical").on(cluster("a100"))
    assert [getattr(found, name) for name in CONSTANTS] == pytest.approx(
        [getattr(start, name) for name in CONSTANTS], rel=1e-3
    )


def test_a_wild_row_is_set_aside_by_name():
    rows = [measured(Layout(tp=tp), Stack(), noise=noise) for tp, noise in ((1, 1.2), (2, 4.0), (4, 1.25))]
    found = calibrate("a100", rows, stack="ideal")
    assert "3 measured rows; set aside: row 1 (3.2 times" in found.fitted_to
    p = predict(CONFIG, Layout(tp=8), "a100", global_batch=64, seq=2048, stack=found)
    assert p.seconds == pytest.approx(1.2 * measured(Layout(tp=8), Stack()).seconds, rel=0.1)
    assert calibrate("a100", rows[::2], stack="ideal").fitted_to == "2 measured rows"  # two cannot outvote each other


def test_a_few_rows_move_the_pace_and_no_link():
    slow = measured(Layout(tp=8), Stack(), noise=1.5)
    found = calibrate("a100", slow, stack="ideal")
    assert found.matmul < 0.85 and found.matmul == pytest.approx(found.memory) == pytest.approx(1 / found.host)
    assert (found.intra, found.inter, found.congestion) == (1.0, 1.0, 0.0)


def test_one_wild_row_does_not_carry_the_others_away():
    rows = [measured(layout, Stack()) for layout in LAYOUTS]
    wild = [dataclasses.replace(rows[0], seconds=10 * rows[0].seconds), *rows[1:], rows[0], rows[0]]
    found = calibrate("a100", wild, stack="ideal")
    p = predict(CONFIG, LAYOUTS[1], "a100", global_batch=64, seq=2048, stack=found)
    assert p.seconds == pytest.approx(rows[1].seconds, rel=0.1)


def test_the_spread_follows_the_residuals_as_rows_grow():
    assert residual_spread(np.zeros(0), 0.3) == pytest.approx(0.3)
    few, many = (residual_spread(np.full(n, 0.05), 0.3) for n in (2, 200))
    assert 0.3 > few > many > 0.05


def test_what_cannot_calibrate_is_refused():
    with pytest.raises(ValueError, match="rows as one Measured or more; got none"):
        calibrate("a100", [])
    for seconds in (0.0, float("nan"), float("inf")):  # one such row would throw the others' knowledge away
        with pytest.raises(ValueError, match="Measured wants seconds as a number above 0; got"):
            Measured(CONFIG, Layout(), seconds, 64, 2048)


def test_the_known_stacks_say_what_they_were_fitted_to():
    assert {"ideal", "typical", "megatron-2022", "llm-foundry"} <= set(stacks())
    assert all(stack(name).fitted_to for name in stacks() if name not in ("ideal", "llmlab"))
