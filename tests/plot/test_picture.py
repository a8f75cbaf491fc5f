"""A figure is shown with its sentence, and follows its sliders."""

from __future__ import annotations

import base64
import inspect
import io
import re

import ipywidgets as W
import matplotlib
import numpy
import pytest
from matplotlib.figure import Figure
from PIL import Image

from llmlab import plot
from llmlab.plot.picture import canvas, png

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def displayed(monkeypatch):
    """What IPython.display.display was given: [(data, metadata)]."""
    calls = []

    def display(data, metadata=None, raw=False):
        assert raw
        calls.append((data, metadata))

    monkeypatch.setattr("IPython.display.display", display)
    return calls


def draw_line(figure, k):
    plot.losses({"loss": [float(k), 1.0]}, figure=figure)


def test_show_displays_one_bundle_of_picture_and_sentence(displayed):
    plot.show(plot.losses({"loss": [2.0, 1.0]}), "a falling loss")
    ((data, metadata),) = displayed
    assert set(data) == {"image/png", "text/plain"} and data["text/plain"] == "a falling loss"
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata == {"image/png": {"alt": "a falling loss", "width": 900}}


def test_show_takes_the_figures_own_sentence_and_wants_one(displayed):
    plot.show(plot.losses({"loss": [2.0, 1.0]}))
    assert displayed[0][0]["text/plain"] == "Loss: loss from 2.000 at step 1 to 1.000 at step 2."
    with pytest.raises(ValueError, match="wants a sentence"):
        plot.show(Figure())


def test_a_picture_left_on_a_cells_last_line_shows_itself_with_its_sentence():
    data, metadata = plot.losses({"loss": [2.0, 1.0]})._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "Loss: loss from 2.000 at step 1 to 1.000 at step 2."


def test_the_same_picture_is_the_same_bytes():
    assert png(plot.losses({"loss": [2.0, 1.0]})) == png(plot.losses({"loss": [2.0, 1.0]}))


def test_drawing_leaves_the_notebooks_own_settings_and_pyplot_alone():
    import sys

    before = dict(matplotlib.rcParams)
    png(plot.losses({"loss": [2.0, 1.0]}))
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_explore_displays_one_bundle_with_a_picture_for_readers_without_a_kernel(displayed):
    plot.explore(draw_line, k=W.IntSlider(3, 1, 9))
    ((data, metadata),) = displayed
    assert set(data) == {WIDGET, "image/png", "text/plain"}
    assert data["text/plain"] == metadata["image/png"]["alt"] == "Loss: loss from 3.000 at step 1 to 1.000 at step 2."


def test_moving_a_slider_redraws_the_picture_its_alt_and_the_spoken_sentence(displayed):
    slider = W.IntSlider(3, 1, 9)
    box = plot.explore(draw_line, k=slider)
    view, said = box.children[1:]
    before = view.value
    slider.value = 5
    assert view.value != before and len(displayed) == 1  # the same widget changes: nothing piles up
    assert re.search('alt="([^"]*)"', view.value)[1] == "Loss: loss from 5.000 at step 1 to 1.000 at step 2."
    assert 'role="status"' in said.value and "5.000" in said.value


def test_the_sentence_may_be_given_or_made_from_the_values(displayed):
    plot.explore(draw_line, "always this", k=W.IntSlider(3))
    slider = W.IntSlider(3)
    box = plot.explore(draw_line, lambda k: f"k is {k} & more", k=slider)
    assert [data["text/plain"] for data, _ in displayed] == ["always this", "k is 3 & more"]
    slider.value = 4
    assert 'alt="k is 4 &amp; more"' in box.children[1].value


def test_a_drawing_that_says_nothing_is_refused_even_after_one_that_did(displayed):
    slider = W.IntSlider(3)

    def mute_after_three(figure, k):
        if k == 3:
            draw_line(figure, k)

    plot.explore(mute_after_three, k=slider)
    with pytest.raises(ValueError, match="wants a sentence"):
        slider.value = 4


def test_a_picture_that_would_weigh_a_notebook_down_is_drawn_coarser():
    figure = canvas(size=(9, 5.8))
    figure.subplots().imshow(numpy.random.rand(300, 500, 3))  # noise: nothing compresses
    light, sharp = base64.b64decode(png(figure)), Image.open(io.BytesIO(base64.b64decode(png(canvas()))))
    assert sharp.size == (1350, 675) and Image.open(io.BytesIO(light)).size == (720, 464)
    assert figure.dpi == 150


def test_a_picture_is_no_taller_than_a_projector_shows_unless_it_is_told():
    assert canvas(size=(9, 30)).get_figheight() == 5.8
    assert plot.losses({"loss": [2.0, 1.0]}).get_figheight() == 4.6
    chosen = plot.losses({"loss": [2.0, 1.0]}, height=7)
    assert chosen.get_figheight() == 7
    assert plot.losses({"loss": [3.0, 1.0]}, figure=chosen) is chosen and chosen.get_figheight() == 7
    with pytest.raises(ValueError, match="height"):
        plot.losses({"loss": [2.0, 1.0]}, height=-1)


def test_every_plot_takes_a_height_and_says_so():
    plots = [getattr(plot, name) for name in plot.__all__]
    drawing = [each for each in plots if "-> Picture" in str(getattr(each, "__annotations__", {}).get("return", ""))]
    assert all("height" in inspect.signature(each).parameters for each in drawing)
