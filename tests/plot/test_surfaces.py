"""Paths down a surface, read from the artists: every step is drawn, and the height at it."""

from __future__ import annotations

import pytest

from llmlab.plot.surfaces import descent, heights

BOX = ((-2.0, 2.0), (-2.0, 2.0))


def bowl(x, y):
    return x**2 + y**2


def test_every_step_is_on_the_plane_and_its_height_beside_it():
    plane, fall = descent(bowl, {"down": [(1.0, 1.0), (0.5, 0.0)]}, BOX).axes
    assert [list(values) for values in plane.lines[0].get_data()] == [[1.0, 0.5], [1.0, 0.0]]
    assert [list(values) for values in fall.lines[0].get_data()] == [[0, 1], [2.0, 0.25]]
    assert fall.lines[0].get_label() == "down" and fall.get_yscale() == "log"
    assert plane.get_xlim() == BOX[0] and plane.get_ylim() == BOX[1]


def test_paths_have_a_look_each_and_begin_at_the_star():
    plane, _ = descent(bowl, {"a": [(1.0, 0.0)], "b": [(1.0, 0.0), (0.0, 0.0)]}, BOX).axes
    *paths, star = plane.lines
    assert len({(path.get_color(), path.get_marker()) for path in paths}) == 2
    assert star.get_marker() == "*" and [list(values) for values in star.get_data()] == [[1.0], [0.0]]


def test_a_path_beyond_all_numbers_ends_without_a_warning():
    found = heights(bowl, [(1.0, 0.0), (1e200, 0.0), (float("nan"), 0.0)])
    assert found == [1.0, float("inf"), float("inf")]
    assert "out leaves: from 1" in descent(bowl, {"out": [(1.0, 0.0), (1e200, 0.0)]}, BOX).alt


def test_a_long_box_is_drawn_to_scale_too_so_that_a_ravine_does_not_look_like_a_bowl():
    long = ((-4.0, 4.0), (-0.5, 0.5))
    figure = descent(bowl, {"down": [(3.0, 0.2), (1.0, 0.1)]}, long)
    strip, fall, plane = figure.axes
    assert strip.get_aspect() == 1.0 and (strip.get_xlim(), strip.get_ylim()) == long
    assert [list(values) for values in strip.lines[0].get_data()] == [[3.0, 1.0], [0.2, 0.1]]
    assert plane.get_aspect() == "auto" and "to scale" in figure.get_supxlabel()
    assert len(descent(bowl, {"down": [(1.0, 1.0)]}, BOX).axes) == 2


def test_the_sentence_says_how_far_down_each_came():
    figure = descent(bowl, {"a": [(1.0, 1.0), (0.5, 0.0)], "b": [(1.0, 1.0), (0.0, 1.0)]}, BOX)
    assert figure.alt == "Height after 1 steps: a from 2 to 0.25; b from 2 to 1."


@pytest.mark.parametrize(
    ("paths", "says"), [({}, "paths as {name: points}; got {}"), ({"none": []}, "none as at least one point")]
)
def test_no_path_is_refused(paths, says):
    with pytest.raises(ValueError, match=says):
        descent(bowl, paths, BOX)
