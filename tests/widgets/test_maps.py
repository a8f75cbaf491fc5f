"""Sliders over attention maps: what is said is what the chosen head's weights are."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.widgets.maps import attention_explorer


def test_the_sentence_is_about_the_chosen_head(displayed):
    maps = np.zeros((2, 2, 3, 3))
    maps[0, 0] = [[1, 0, 0]] * 3
    maps[1, 0] = np.eye(3)
    maps[1, 1] = [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    box = attention_explorer(maps, ["a", "b", "c"])
    layer, head = box.children[:2]
    assert "Layer 0, head 0: on average 100% on the first token, 50% on the token before, 0% on the token itself" in (
        box.children[-1].value
    )
    layer.value = 1
    assert "0% on the first token, 0% on the token before, 100% on the token itself" in box.children[-1].value
    head.value = 1
    assert "100% on the token before" in box.children[-1].value


def test_maps_of_another_sentence_are_refused():
    with pytest.raises(ValueError, match="for 2 tokens, got"):
        attention_explorer(np.zeros((1, 1, 3, 3)), ["a", "b"])
