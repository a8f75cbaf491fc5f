"""A microbatch: the part of a batch that goes forward and backward at once on one rank, and how it is cut out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llmlab.arguments import instance
from llmlab.model import IGNORE, Transformer


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

    def rows(self, rows: slice | Tensor) -> Microbatch:
        """Cut out these sequences: of what has a row for each, those rows; the whole of what all sequences share."""
        batch = self.tokens.shape[0]
        return self._each(lambda x: x[rows] if x.dim() > 1 and x.shape[0] == batch else x)

    def share(self, part: int, parts: int) -> Microbatch:
        """Cut out one of `parts` equal shares. Where a row is missing the last stands in, without its targets."""
        batch = self.tokens.shape[0]
        each = -(-batch // parts)
        rows = torch.arange(part * each, (part + 1) * each, device=self.tokens.device)
        found, missing = self.rows(rows.clamp(max=batch - 1)), rows >= batch
        return replace(found, targets=found.targets.masked_fill(missing[:, None], IGNORE))

    def columns(self, held: Tensor) -> Microbatch:
        """Cut out these tokens of every sequence, by number [t]; they may still look at all T."""
        return replace(
            self,
            tokens=self.tokens[:, held],
            targets=self.targets[:, held],
            positions=held if self.positions is None else self.positions[..., held],
            mask=None if self.mask is None else self.mask[:, :, held],
        )

    def filled_up(self, multiple: int, hidden: bool) -> Microbatch:
        """Make every sequence longer, at its end, to a multiple: no target is there, and nobody looks there.

        hidden: whether a mask has to see to that, since causality does not.
        """
        length = self.tokens.shape[1]
        extra = -length % multiple
        if not extra:
            return self
        mask, positions = self.mask, self.positions
        if mask is None and hidden:
            mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=self.tokens.device)
        if positions is not None:  # the last one again: there may be none beyond
            positions = torch.cat((positions, positions[..., -1:].expand(*positions.shape[:-1], extra)), dim=-1)
        return replace(
            self,
            tokens=F.pad(self.tokens, (0, extra)),
            targets=F.pad(self.targets, (0, extra), value=IGNORE),
            positions=positions,
            mask=None if mask is None else F.pad(mask, (0, extra, 0, extra)),
        )

    def on(self, device: torch.device) -> Microbatch:
        """Bring it to a device."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Microbatch:
        positions, mask = (None if x is None else change(x) for x in (self.positions, self.mask))
        return Microbatch(change(self.tokens), change(self.targets), positions, mask)


def check_batch(model: Transformer, batch: Microbatch, before: int = 0) -> None:
    """Refuse what the model cannot read, whatever the layout: on every rank alike, before anything is sent.

    before: how many tokens of each sequence were read already.
    """
    tokens, targets, positions, mask = batch.tokens, batch.targets, batch.positions, batch.mask
    for name, value in (("tokens", tokens), ("targets", targets), ("positions", positions), ("mask", mask)):
        if value is not None or name in ("tokens", "targets"):
            instance("a batch", name, value, Tensor, "torch.as_tensor(array)")
    if tokens.dim() != 2 or tokens.shape != targets.shape or not tokens.numel():
        raise ValueError(
            f"a batch wants tokens and targets of one shape [B, T], got {list(tokens.shape)} and {list(targets.shape)}"
        )
    rows, seq = tokens.shape
    model.check_length(tokens, before)
    if positions is not None and positions.shape not in ((seq,), (rows, seq)):
        raise ValueError(f"positions want shape [{seq}] or [{rows}, {seq}], got {list(positions.shape)}")
    if mask is not None and mask.shape not in ((1, 1, seq, seq + before), (rows, 1, seq, seq + before)):
        raise ValueError(f"a mask wants shape [{rows} or 1, 1, {seq}, {seq + before}], got {list(mask.shape)}")
    top = model.config.vocab_size - 1
    if not tokens.is_meta and not 0 <= int(tokens.min()) <= int(tokens.max()) <= top:
        raise ValueError(f"token wants numbers from 0 to {top}, got {int(tokens.min())} to {int(tokens.max())}")
    counted = targets if targets.is_meta else targets[targets != IGNORE]
    if not targets.is_meta and counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) <= top:
        raise ValueError(
            f"targets want numbers from 0 to {top}, or {IGNORE} for one that does not count; "
            f"got {int(counted.min())} to {int(counted.max())}"
        )
