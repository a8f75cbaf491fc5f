"""The words that decided: hide one, and see how far the answer moves (Zeiler and Fergus 2014; Li et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmlab.arguments import instance, whole
from llmlab.evaluate.scores import evaluating


def occlusion(model: Any, tokens: Int[Tensor, " T"], y: int, hidden: int = 0) -> Float[Tensor, " T"]:
    """Give for each token of a text the drop of ln P(class y) when `hidden` stands in its place.

    Positive: it spoke for the class. hidden: a token that says nothing, such as `<unk>` or [MASK]. Two words that say
    the same cover for each other: hide one, and nothing moves.
    """
    instance("occlusion", "tokens", tokens, Tensor)
    if tokens.dim() != 1 or not len(tokens):
        raise ValueError(f"occlusion wants the tokens [T] of one text, got shape {tuple(tokens.shape)}")
    whole("occlusion", "hidden (a token)", hidden, least=0)
    device = next(model.parameters()).device
    rows = tokens.to(device).repeat(len(tokens) + 1, 1)
    places = torch.arange(len(tokens), device=device)
    rows[places, places] = hidden  # the last row hides nothing
    with evaluating(model):
        logits = model(rows)
    whole("occlusion", "y (a class)", y, least=0, most=logits.shape[-1] - 1)
    log_p = logits.log_softmax(-1)[:, y]
    return (log_p[-1] - log_p[:-1]).cpu()
