"""Where does each head look? Sliders over the layers and heads of a model's attention maps."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as W
import numpy as np
from numpy.typing import ArrayLike

from llmlab.plot import explore
from llmlab.plot.heatmaps import grids
from llmlab.plot.picture import Picture


def attention_explorer(maps: ArrayLike, tokens: Sequence[str], layer: int = 0, head: int = 0) -> W.VBox:
    """Explore attention weights [layer, head, query, key], such as `attention_maps(model, ids)[0]`.

    tokens: what stands at each position.
    """
    weights = np.asarray(maps, dtype=np.float64)
    if weights.ndim != 4 or weights.shape[2:] != (len(tokens), len(tokens)):
        wanted = f"[layer, head, {len(tokens)}, {len(tokens)}] for {len(tokens)} tokens"
        raise ValueError(f"attention maps want shape {wanted}, got {weights.shape}")

    def draw(figure: Picture, layer: int, head: int) -> None:
        table = weights[layer, head]
        title = f"layer {layer}, head {head}"
        grids({title: table}, tokens, tokens, xlabel="key", ylabel="query", limits=(0, 1), figure=figure)
        figure.alt = f"{title[0].upper()}{title[1:]}: {describe(table)}."

    return explore(draw, layer=_number("layer", layer, len(weights)), head=_number("head", head, weights.shape[1]))


def describe(table: np.ndarray) -> str:
    """Say on what the queries of one head put their weight, on average: the first token, themselves, the one before."""
    rows = table[1:]  # the first query of a causal model has no choice
    shares = {
        "the first token": rows[:, 0].mean(),
        "the token before": np.diagonal(table, -1).mean(),
        "the token itself": np.diagonal(table)[1:].mean(),
    }
    return "on average " + ", ".join(f"{share:.0%} on {where}" for where, share in shares.items())


def _number(description: str, value: int, n: int) -> W.IntSlider:
    style, layout = {"description_width": "10em"}, W.Layout(width="34em", max_width="100%")
    return W.IntSlider(value, 0, n - 1, description=description, style=style, layout=layout)
