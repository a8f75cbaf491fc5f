"""Dropout whose mask does not depend on the layout (Srivastava et al. 2014).

Whether an element is dropped is a hash of (seed, module path, step) and of its place in the whole batch: which
sequence, which token of it, which feature. Whoever holds a slice gets that slice of the one mask without drawing the
rest, so a replica, a microbatch, a shard of the sequence and a recomputed block all drop what one process drops.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor, nn

from llmlab.model.initial import key_of


@dataclass
class Place:
    """Where in the run and in the global batch the next forward's tensors lie. Whoever splits a batch says it here."""

    step: int = 0
    row: int = 0  # number, in the global batch, of the first sequence held
    columns: Int[Tensor, " T"] | None = None  # the tokens held of each sequence; None: all, in order


class Dropout(nn.Module):
    """Set a share p of the elements to 0 and scale the others by 1 / (1 - p), in training only."""

    def __init__(self, p: float):
        super().__init__()
        self.p, self.seed, self.path = p, 0, ""  # seed and path: set by the model, which knows them
        self.place = Place()
        self.part = (0, 1)  # sequence parallelism: (which, of how many) slices of the tokens come through here

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if not self.training or self.p == 0:
            return x
        return (x * (1 / (1 - self.p))).masked_fill(self.dropped(x), 0.0)

    def dropped(self, x: Float[Tensor, "B T D"]) -> Bool[Tensor, "B T D"]:
        """Give the mask of this slice of the batch: True is dropped."""
        batch, length, width = x.shape
        index, parts = self.part
        columns = self.place.columns
        if columns is None:
            columns = torch.arange(index * length, (index + 1) * length, device=x.device)
        elif parts > 1:
            columns = columns.chunk(parts)[index]
        rows = torch.arange(self.place.row, self.place.row + batch, device=x.device)
        key = key_of(self.seed, self.path, self.place.step) & 0x7FFFFFFF
        tokens = scramble(scramble(rows.int() + key)[:, None] + columns.int())
        features = scramble(torch.arange(width, dtype=torch.int32, device=x.device) ^ key)
        bits = scramble(tokens[:, :, None] + features)  # [B, T, D], uniform over the int32
        return bits < round(self.p * 2**32) - 2**31


def scramble(x: Int32[Tensor, "*N"]) -> Int32[Tensor, "*N"]:
    """Mix the bits of each integer: one round of MurmurHash3's finalizer (Appleby 2011); products wrap around."""
    x = x ^ (x >> 16 & 0xFFFF)  # `>>` keeps the sign; the mask makes it a plain shift
    x = x * -0x7A143595
    x = x ^ (x >> 13 & 0x7FFFF)
    return x * -0x3D4D51CB
