"""Sliders on positions: each one changes what is said."""

from __future__ import annotations

from llmlab.widgets.positions import rotary_explorer, sinusoid_explorer


def test_moving_query_and_key_together_leaves_the_score(displayed):
    box = rotary_explorer(query=20, key=17)
    query, key, base = box.children[:3]
    said = box.children[-1].value
    query.value, key.value = 33, 30
    moved = box.children[-1].value
    assert moved != said and moved.split("of the score")[1] == said.split("of the score")[1]
    base.value = 10
    assert box.children[-1].value.split("of the score")[1] != said.split("of the score")[1]


def test_sinusoids_follow_their_sliders(displayed):
    box = sinusoid_explorer()
    position, width = box.children[:2]
    position.value, width.value = 3, 16
    assert "position 3 among 64, 16 numbers" in box.children[-1].value
