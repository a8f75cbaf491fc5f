"""What does a position look like? Sliders on sinusoids and on the turning of rotary positions."""

from __future__ import annotations

import ipywidgets as W

from llmlab.plot import explore
from llmlab.plot.picture import Picture
from llmlab.plot.positions import rotary_picture, sinusoid_picture
from llmlab.widgets.sliders import choice

SEQ = 64


def sinusoid_explorer(position: int = 20, d_model: int = 64) -> W.VBox:
    """Explore how alike the sinusoids of one position and all others are, for several widths."""

    def draw(figure: Picture, position: int, d_model: int) -> None:
        sinusoid_picture(position, d_model, SEQ, figure=figure)

    return explore(draw, position=_place("position", position), d_model=choice("d_model", [4, 16, 64, 256], d_model))


def rotary_explorer(query: int = 20, key: int = 17, base: int = 10000) -> W.VBox:
    """Explore how a query and a key are turned by their positions, and that only their distance counts."""

    def draw(figure: Picture, query: int, key: int, base: int) -> None:
        rotary_picture(query, key, base=float(base), seq=SEQ, figure=figure)

    bases = choice("base", [10, 100, 1000, 10_000, 100_000], base)
    return explore(draw, query=_place("query at", query), key=_place("key at", key), base=bases)


def _place(description: str, value: int) -> W.IntSlider:
    style, layout = {"description_width": "10em"}, W.Layout(width="34em", max_width="100%")
    return W.IntSlider(value, 0, SEQ - 1, description=description, style=style, layout=layout)
