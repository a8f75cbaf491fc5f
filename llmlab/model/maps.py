"""Where a model looks: the attention weights of all its heads, taken at the seam `attend` while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.model.attention import Attention, Keys, Mask, Query, allowed, repeat_heads
from llmlab.model.whole import check_in_one_piece, model_of


def attention_maps(model: Any, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B L h T T"]:
    """Compute softmax(q kᵀ / sqrt(K)), masked as the model masks it, for each head of each block.

    model: a Transformer or a TextEncoder, or a step that holds one. Raises ValueError where only a part of it is here.
    """
    model = model_of("attention_maps", model)
    check_in_one_piece("attention_maps", model)
    if not hasattr(model, "blocks"):
        raise ValueError(f"attention_maps wants a model with blocks of attention, got {type(model).__name__}")
    found: list[Tensor] = []
    layers = [cast(Attention, block.attention) for block in cast(Iterable[nn.Module], model.blocks)]
    before = [layer.attend for layer in layers]
    try:
        for layer in layers:
            layer.attend = recording(layer.attend, found)
        with torch.no_grad():
            model(tokens)
    finally:
        for layer, attend in zip(layers, before, strict=True):
            layer.attend = attend
    return torch.stack(found, dim=1)


def recording(attend: Callable[..., Tensor], found: list[Tensor]) -> Callable[..., Tensor]:
    """Wrap `attend` so that it also notes its weights."""

    def attend_and_record(
        q: Query, k: Keys, v: Keys, mask: Mask | None = None, causal: bool = False
    ) -> Float[Tensor, "B h T K"]:
        scores = q @ repeat_heads(k, q.shape[1]).mT / q.shape[-1] ** 0.5
        visible = allowed(q, k, mask, causal)
        found.append((scores if visible is None else scores.masked_fill(~visible, -torch.inf)).softmax(-1))
        return attend(q, k, v, mask, causal)

    return attend_and_record
