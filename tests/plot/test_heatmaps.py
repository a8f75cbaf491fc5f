"""Tables as colours and tokens as boxes, read from their artists."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.plot.heatmaps import grids
from llmlab.plot.tokens import COLUMNS, lines_of, printable, token_boxes


def test_every_table_is_drawn_in_the_same_colours():
    figure = grids({"a": [[0.0, 0.5]], "b": [[1.0, 2.0]]}, rows=["r"], columns=["x", "y"])
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_clim() for image in images] == [(0.0, 2.0)] * 2
    assert np.array_equal(images[1].get_array(), [[1.0, 2.0]])
    assert "a, 1 x 2, largest 0.5 in row 'r', column 'y'" in figure.alt


def test_colours_of_numbers_below_zero_are_as_far_on_both_sides():
    figure = grids({"": [[-3.0, 1.0], [0.0, 2.0]]}, numbers=True)
    assert figure.axes[0].images[0].get_clim() == (-3.0, 3.0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["-3", "1", "0", "2"]
    assert "largest 2 in row 1, column 1" in figure.alt


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match="rows and columns"):
        grids({"a": [1.0, 2.0]})
    with pytest.raises(ValueError, match="panels as {title: a table of numbers}; got {}"):
        grids({})


def test_each_token_has_its_box_and_no_line_is_too_long():
    tokens = [b"The", b" cat", "好".encode(), b"\n"] * 12
    figure = token_boxes({"words": tokens})
    (axes,) = figure.axes
    assert len(axes.patches) == len(tokens) == len(axes.texts) - 1
    assert [text.get_text() for text in axes.texts[1:5]] == ["The", "_cat", "E5A5BD", "0A"]
    assert max(patch.get_x() + patch.get_width() for patch in axes.patches) <= COLUMNS
    assert figure.alt == "words: 132 bytes in 48 tokens, 2.75 bytes each."


def test_a_token_longer_than_a_line_gets_a_line():
    assert lines_of(["x" * 100, "y"]) == [["x" * 100], ["y"]]
    assert printable(b"a b~\x7f") == "a_b~7F"


def test_labels_stand_at_the_first_table_only():
    first, second = grids({"a": [[1.0]], "b": [[2.0]]}, rows=["row"], columns=["long name"]).axes[:2]
    assert [text.get_text() for text in first.get_yticklabels()] == ["row"] and not second.get_yticklabels()
    assert [text.get_rotation() for text in second.get_xticklabels()] == [60.0]
