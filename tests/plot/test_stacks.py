"""Stacked bars by name: they add up, and the line is what a device holds."""

from __future__ import annotations

import pytest

from llmlab.plot.stacks import memory_bars

GIB = 2**30
KEPT = {"whole": {"parameters": 6 * GIB, "gradients": 2 * GIB}, "sharded": {"parameters": 3 * GIB, "other": GIB}}


def test_each_bar_stacks_to_its_sum_in_the_order_of_categories():
    (axes,) = memory_bars(KEPT, capacity=5 * GIB).axes
    tops = [max(c.patches[i].get_y() + c.patches[i].get_height() for c in axes.containers) for i in range(2)]
    assert tops == [8, 4]
    assert [c.get_label() for c in axes.containers] == ["parameters", "gradients", "other"]
    assert axes.lines[0].get_ydata()[0] == 5


def test_the_sentence_says_what_fits():
    assert memory_bars(KEPT, 5 * GIB).alt == (
        "Memory of a rank: whole 8 GiB and sharded 4 GiB; into the 5 GiB of a device sharded fits."
    )
    assert "none fits" in memory_bars(KEPT, GIB).alt and "fit" not in memory_bars(KEPT).alt


def test_no_bars_are_refused():
    with pytest.raises(ValueError, match="as {category: bytes}; got {}"):
        memory_bars({"nothing": {}})
