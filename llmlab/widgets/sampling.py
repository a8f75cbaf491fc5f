"""Temperature, top-k and top-p as sliders on a real model's next token."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as W

from llmlab.generation.next_tokens import NextTokens, recorded_next_tokens
from llmlab.plot import Picture, explore
from llmlab.plot.distributions import next_token_bars
from llmlab.widgets.sliders import choice

TEMPERATURES = [0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0]
TOP_K = [1, 2, 3, 5, 10, 20, 50, "all"]
TOP_P = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0]


def sampling_explorer(after: Sequence[NextTokens] | None = None, temperature: float = 1.0) -> W.VBox:
    """Explore what may be drawn next, after several prompts: temperature, then top-k, then top-p.

    after: what `next_tokens` gives of a model of yours; by default what a real model said, recorded.
    """
    by_prompt = {each.prompt: each for each in (recorded_next_tokens() if after is None else after)}
    if not by_prompt:
        raise ValueError("the explorer wants the next tokens of at least one prompt, got none")

    def draw(figure: Picture, prompt: str, temperature: float, top_k: int | str, top_p: float) -> None:
        k = top_k if isinstance(top_k, int) else None
        next_token_bars(by_prompt[prompt], temperature, k, top_p, figure=figure)

    return explore(
        draw,
        prompt=choice("prompt", list(by_prompt), next(iter(by_prompt))),
        temperature=choice("temperature", TEMPERATURES, temperature),
        top_k=choice("top-k", TOP_K, "all"),
        top_p=choice("top-p", TOP_P, 1.0),
    )
