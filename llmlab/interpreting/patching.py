"""Activation patching: put one run's residual stream into another's, at one place, and see what that changes.

What merely goes along with an answer does not change it; what carries it does (Vig et al. 2020; Meng et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmlab.arguments import instance, whole
from llmlab.evaluate import evaluating
from llmlab.interpreting.lens import Tokens, residual_streams, transformer_of
from llmlab.model import Transformer


def patch(
    model: Any,
    tokens: Tokens,
    layer: int,
    stream: Float[Tensor, "B T D"],
    positions: Int[Tensor, " P"] | None = None,
) -> Float[Tensor, "B T V"]:
    """Compute the logits with `stream` in the residual stream after `layer` blocks, at these positions (None: all).

    layer: 0 is before the first block.  stream: of another run, `residual_streams(model, others)[layer]`.
    """
    one = transformer_of("patch", model)
    whole("patch", "layer", layer, least=0, most=len(one.blocks))
    x = residual_streams(one, tokens)[layer]
    instance("patch", "stream", stream, Tensor, "residual_streams(model, others)[layer]")
    if stream.shape != x.shape:
        raise ValueError(f"patch wants streams of one shape, {list(x.shape)}, got {list(stream.shape)}")
    places = slice(None) if positions is None else positions
    x[:, places] = stream[:, places]
    return onwards(one, x, layer)


def onwards(model: Transformer, x: Float[Tensor, "B T D"], layer: int) -> Float[Tensor, "B T V"]:
    """Go on from the residual stream after `layer` blocks to the logits."""
    with evaluating(model):
        positions = torch.arange(x.shape[1], device=x.device)
        return model.head(model.norm(model.through(list(model.blocks)[layer:], x, positions)))


@dataclass(frozen=True)
class Patching:
    """What patching did to the logit of the right answer less that of the wrong one, at the last position.

    clean, corrupt: without a patch.  patched: of the corrupt run with the clean stream at one layer and position.
    """

    clean: float
    corrupt: float
    patched: Float[Tensor, "L1 T"]

    @property
    def restored(self) -> Float[Tensor, "L1 T"]:
        """How much of the way from corrupt (0) to clean (1) each patch goes."""
        return (self.patched - self.corrupt) / (self.clean - self.corrupt)


def patch_everywhere(
    model: Any, clean: Int[Tensor, " T"], corrupt: Int[Tensor, " T"], right: int, wrong: int
) -> Patching:
    """Patch the clean run's stream into the corrupt run's, at each layer and position in turn.

    clean, corrupt: prompts of one length.  right, wrong: the tokens that should follow the one and the other.
    """
    one = transformer_of("patch_everywhere", model)
    for name, prompt in (("clean", clean), ("corrupt", corrupt)):
        instance("patch_everywhere", name, prompt, Tensor, "torch.tensor(tokenizer.encode(text))")
    for name, token in (("right", right), ("wrong", wrong)):
        whole("patch_everywhere", name, token, least=0, most=one.config.vocab_size - 1)
    if clean.shape != corrupt.shape or clean.dim() != 1:
        raise ValueError(f"patching wants prompts [T] of one length, got {list(clean.shape)} and {list(corrupt.shape)}")
    streams = residual_streams(one, torch.stack((clean, corrupt)))  # [L1, 2, T, D]
    each = torch.arange(len(clean), device=clean.device)

    def difference(logits: Float[Tensor, "B T V"]) -> Float[Tensor, " B"]:
        return logits[:, -1, right] - logits[:, -1, wrong]

    rows = []
    for layer, (good, bad) in enumerate(streams):
        x = bad.repeat(len(each), 1, 1)  # a copy for each position, patched there
        x[each, each] = good
        rows.append(difference(onwards(one, x, layer)))
    unpatched = difference(onwards(one, streams[-1], len(one.blocks)))
    return Patching(float(unpatched[0]), float(unpatched[1]), torch.stack(rows).cpu())
