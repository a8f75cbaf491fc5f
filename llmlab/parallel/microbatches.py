"""A microbatch: the part of a batch that goes forward and backward at once on one rank, and how it is cut out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Microbatch:
    """Some rows of a batch [B, T], and of each row the tokens that a rank holds.

    tokens, targets: [b, t].  positions: [t] or [b, t]; None: 0 .. t-1.  mask: [b or 1, 1, t, T], True where a token may
    look.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor | None = None
    mask: Tensor | None = None

    def rows(self, rows: slice) -> Microbatch:
        """Cut out these sequences: of what has a row for each, those rows; the whole of what all sequences share."""
        batch = self.tokens.shape[0]

        def cut(x: Tensor) -> Tensor:
            return x[rows] if x.dim() > 1 and x.shape[0] == batch else x

        return self._each(cut)

    def columns(self, held: Tensor) -> Microbatch:
        """Cut out these tokens of every sequence, by number [t]; they may still look at all T."""
        return replace(
            self,
            tokens=self.tokens[:, held],
            targets=self.targets[:, held],
            positions=held if self.positions is None else self.positions[..., held],
            mask=None if self.mask is None else self.mask[:, :, held],
        )

    def on(self, device: torch.device) -> Microbatch:
        """Bring it to a device."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Microbatch:
        positions, mask = (None if x is None else change(x) for x in (self.positions, self.mask))
        return Microbatch(change(self.tokens), change(self.targets), positions, mask)
