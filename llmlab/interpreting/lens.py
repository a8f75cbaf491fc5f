"""The logit lens: read the residual stream of every layer as if it were the last (nostalgebraist 2020).

x_0 = embedding;  x_l = x_{l-1} + block l;  lens_l = head(norm(x_l));  lens_L is what the model says
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmlab.arguments import instance
from llmlab.evaluate import evaluating
from llmlab.model import Transformer
from llmlab.model.whole import check_in_one_piece, model_of

Tokens = Int[Tensor, "B T"]
Streams = Float[Tensor, "L1 B T D"]  # before the first block, and after each: L1 = L + 1


def transformer_of(call: str, model: Any) -> Transformer:
    """Give the Transformer in one piece that a reader of residual streams wants."""
    one = instance(call, "model", model_of(call, model), Transformer)
    check_in_one_piece(call, one)
    return one


def residual_streams(model: Any, tokens: Tokens) -> Streams:
    """Give the residual stream before the first block and after each."""
    one = transformer_of("residual_streams", model)
    one.check_length(tokens)
    with evaluating(one):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        streams = [one.embedding(tokens, positions)]
        for block in one.blocks:
            streams.append(one.through([block], streams[-1], positions))
    return torch.stack(streams)


def logit_lens(model: Any, tokens: Tokens) -> Float[Tensor, "L1 B T V"]:
    """Compute the logits that each layer's stream would give as the last; the last layer's are the model's own."""
    one = transformer_of("logit_lens", model)
    streams = residual_streams(one, tokens)
    with evaluating(one):
        return torch.stack([one.head(one.norm(stream)) for stream in streams])  # one by one: to the bit as the model's


@dataclass(frozen=True)
class TopTokens:
    """The likeliest next token by layer and position, and how likely: a table for `lab.plot.logit_lens`."""

    tokens: Sequence[str]  # what stands at each position
    words: Sequence[Sequence[str]]  # [layer][position]
    p: Float[Tensor, "L1 T"]


def top_tokens(model: Any, tokenizer: Any, text: str) -> TopTokens:
    """Read a text through the lens."""
    ids = torch.tensor([tokenizer.encode(text)], device=next(model_of("top_tokens", model).parameters()).device)
    p, best = logit_lens(model, ids)[:, 0].softmax(-1).max(-1)
    words = [[tokenizer.decode([i]) for i in row] for row in cast("list[list[int]]", best.tolist())]
    return TopTokens([tokenizer.decode([i]) for i in ids[0].tolist()], words, p.cpu())
