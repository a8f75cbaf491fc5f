"""How many merges does a tokenizer need? A slider over those it has learned, on a text that can be changed."""

from __future__ import annotations

import ipywidgets as W

from llmlab.plot import explore
from llmlab.plot.picture import Picture
from llmlab.plot.tokens import describe_tokens, token_boxes
from llmlab.text import BPE
from llmlab.widgets.sliders import choice

STEPS = (0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)


def token_explorer(tokenizer: BPE, text: str) -> W.VBox:
    """Explore how a text is cut by the first merges of a tokenizer only: no merge, a few, all of them."""
    n = len(tokenizer.merges)
    steps = [step for step in STEPS if step < n] + [n]
    smaller = {step: tokenizer.after(step) for step in steps}

    def draw(figure: Picture, merges: int, text: str) -> None:
        bpe = smaller[merges]
        cut = {f"{merges:,} merges": [bpe.vocab[i] for i in bpe.encode(text or " ")]}
        token_boxes(cut, figure=figure)
        figure.alt = f"{describe_tokens(cut)[:-1]}, from a vocabulary of {bpe.vocab_size:,}."

    field = W.Text(value=text, description="text", continuous_update=False, layout=W.Layout(width="46em"))
    return explore(draw, merges=choice("merges", steps, steps[len(steps) // 2]), text=field)
