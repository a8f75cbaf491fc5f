"""The live curve: one widget that grows, then the final picture, the same for the same losses."""

from __future__ import annotations

import pytest

from llmlab.widgets import LiveCurve

WIDGET = "application/vnd.jupyter.widget-view+json"


def train(live, losses=(3.0, 2.0, 1.0)):
    with live:
        for loss in losses:
            live.add(train=loss)
    return live


def test_it_displays_one_widget_and_then_one_picture(displayed):
    train(LiveCurve(3))
    assert [set(data) for data in displayed] == [{WIDGET, "text/plain"}, {"image/png", "text/plain"}]
    assert displayed[1]["text/plain"] == "Loss: train from 3.000 at step 1 to 1.000 at step 3."


def test_the_final_picture_is_the_same_however_often_it_was_drawn(displayed):
    often, once = train(LiveCurve(3, every_s=0.0)), train(LiveCurve(3, every_s=1e9))
    assert once.draws == 1 <= often.draws
    assert displayed[1] == displayed[3]


def test_losses_may_miss_steps(displayed):
    live = LiveCurve(4)
    with live:
        for step in range(1, 5):
            live.add(train=5.0 - step, **({"validation": 4.0} if step % 2 == 0 else {}))
    assert live.curves == {"train": {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}, "validation": {2: 4.0, 4: 4.0}}


def test_the_bar_counts_the_steps(displayed, capfd):
    live = train(LiveCurve(3, "fitting"))
    shown = capfd.readouterr().err
    assert "fitting: 100%" in shown and shown.endswith("\n") and live.step == 3  # closed at the end of its line


def test_an_error_passes_through_and_shows_how_far_it_came(displayed):
    live = LiveCurve(3)
    with pytest.raises(KeyError), live:
        live.add(train=3.0)
        raise KeyError("planted")
    assert displayed[-1]["text/plain"] == "Loss: train from 3.000 at step 1 to 3.000 at step 1."


def test_nothing_is_shown_of_nothing(displayed):
    with LiveCurve(3):
        pass
    assert len(displayed) == 1
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LiveCurve(0)
