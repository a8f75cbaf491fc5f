"""Bars of where the time went: they fill the time, in the order of causes, and the sentence has their numbers."""

from __future__ import annotations

import pytest

from llmlab.diagnosing import CAUSES
from llmlab.plot import causes

SHARES = {
    "sick": dict(zip(CAUSES, (0.31, 0.05, 0.64, 0.0, 0.0), strict=True)),
    "cured": dict(zip(CAUSES, (0.53, 0.07, 0.4, 0.0, 0.0), strict=True)),
}


def test_each_bar_is_cut_by_cause_and_fills_the_time():
    (axes,) = causes(SHARES).axes
    assert [bars.get_label() for bars in axes.containers] == ["matrix products", "other kernels", "communication"]
    for row in range(2):
        boxes = [bars.patches[row] for bars in axes.containers]
        assert boxes[0].get_x() == 0 and boxes[1].get_x() == boxes[0].get_width()
        assert sum(box.get_width() for box in boxes) == pytest.approx(100)


def test_a_label_stands_where_it_has_room_and_a_note_behind_its_bar():
    (axes,) = causes(SHARES, {"cured": "MFU 38%"}).axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["31%", "53%", "7%", "64%", "40%", "", "MFU 38%"]


def test_the_sentence_leaves_small_shares_out():
    assert causes(SHARES, {"cured": "MFU 38%"}).alt == (
        "Where the time went. sick: 31% matrix products and 64% communication; "
        "cured (MFU 38%): 53% matrix products, 7% other kernels and 40% communication."
    )


def test_no_bars_are_refused():
    with pytest.raises(ValueError, match="shares as {name: {cause: share}}; got {}"):
        causes({})
