"""Attention over a paged cache. Seam: `attend`.

A step's tokens, whosever they are, go through the model as rows of one token each: what has weights does not mind whose
a token is (Yu et al. 2022, "selective batching"). Only attention does: here keys and values go to their places in the
blocks, and each sequence's are gathered by its block table. Sequences of as many tokens and about as many blocks are
attended to at once, the shorter ones masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmlab.evaluate import evaluating
from llmlab.model import Config, KVCache, Transformer, attend_fused
from llmlab.model.whole import Whole
from llmlab.serving.scheduler import Chunk


@dataclass(frozen=True)
class Together:
    """Sequences that are attended to at once: rows `rows` of the step, `count` for each sequence."""

    rows: slice
    count: int
    table: Int[Tensor, "B n"]  # each sequence's blocks; filled up with block 0, which the mask hides
    mask: Bool[Tensor, "B 1 t S"]


@dataclass(frozen=True)
class Rows:
    """A step's tokens: which they are, where they stand, and where their keys and values belong."""

    tokens: Int[Tensor, "N 1"]
    positions: Int[Tensor, "N 1"]
    block: Int[Tensor, " N"]
    offset: Int[Tensor, " N"]
    groups: list[Together]


class Paged(Protocol):
    """What an engine steps: a PagedModel, or what only lets a step's time pass."""

    config: Config

    @property
    def version(self) -> int:
        """A number that changes with the weights."""

    def logits(self, chunks: Iterable[Chunk], wanted: list[int]) -> Tensor | None:
        """Compute chunks, in order, and give the logits after the rows `wanted`, or None if there are no numbers."""


class PagedModel:
    """A Transformer, or the part of it that is here, and its keys and values in blocks."""

    def __init__(self, model: Transformer, whole: Transformer | Whole, blocks: int, block: int):
        self.model, self.whole, self.block = model, whole, block
        self.config = model.config
        self.device = next(model.parameters()).device
        pages = whole.make_caches(blocks, block)  # a block is to them a sequence of `block` tokens
        assert pages is not None
        for page in pages:  # what is masked counts 0 times, and 0 times a nan that lay in memory would be a nan
            page.keys.zero_()
            page.values.zero_()
        self.pages = pages

    @property
    def version(self) -> int:
        """A number that changes with the weights: torch counts what is written into each."""
        return sum(parameter._version for parameter in self.model.parameters())

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held here."""
        return sum(x.numel() * x.element_size() for page in self.pages for x in (page.keys, page.values))

    def logits(self, chunks: Iterable[Chunk], wanted: list[int]) -> Float[Tensor, "W V"] | None:
        """Compute the chunks' tokens, keep their keys and values, and give the logits after the rows `wanted`.

        None where there are no numbers (numerics=False): whoever chose by them would wait for them here all the same.
        """
        rows = self.rows(chunks)
        with evaluating(self.model), self._attending(rows):
            logits = self.whole.last_logits(rows.tokens, rows.positions, rows=self._tensor(wanted))
        if not logits.is_meta:
            return logits
        float(logits.sum())
        return None

    def rows(self, chunks: Iterable[Chunk]) -> Rows:
        """Lay the tokens of chunks, which `in_order` has put in order, one under another."""
        tokens: list[int] = []
        positions: list[int] = []
        blocks: list[int] = []
        groups = []
        for (count, _), found in groupby(chunks, key=lambda chunk: chunk.kind):
            members, first = list(found), len(tokens)
            for chunk in members:
                places = range(chunk.start, chunk.start + count)
                tokens += chunk.tokens
                positions += places
                blocks += [chunk.sequence.blocks[place // self.block] for place in places]
            groups.append(self._together(members, slice(first, len(tokens)), count))
        at = self._tensor(positions)
        return Rows(self._tensor(tokens)[:, None], at[:, None], self._tensor(blocks), at % self.block, groups)

    def _together(self, chunks: list[Chunk], rows: slice, count: int) -> Together:
        ends = [chunk.start + count for chunk in chunks]
        n = -(-max(ends) // self.block)
        table = [chunk.sequence.blocks[:n] + [0] * (n - len(chunk.sequence.blocks)) for chunk in chunks]
        seen = self._tensor([list(range(end - count, end)) for end in ends])  # [B, t]: where each query stands
        mask = torch.arange(n * self.block, device=self.device) <= seen[:, None, :, None]  # [B, 1, t, S]
        return Together(rows, count, self._tensor(table), mask)

    def _tensor(self, values: list[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    @contextmanager
    def _attending(self, rows: Rows) -> Iterator[None]:
        """Within, the model's attention reads and writes the blocks."""
        attentions: list[Any] = [block.attention for block in self.model.blocks]
        before = [attention.attend for attention in attentions]
        for attention, pages in zip(attentions, self.pages, strict=True):
            attention.attend = attend_paged(pages, rows)
        try:
            yield
        finally:
            for attention, attend in zip(attentions, before, strict=True):
                attention.attend = attend


def attend_paged(pages: KVCache, rows: Rows) -> Callable[..., Tensor]:
    """Make the `attend` of one layer in one step: q, k, v are [N, heads, 1, K], a row for each token."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = True) -> Tensor:
        pages.keys[rows.block, :, rows.offset] = k[:, :, 0]
        pages.values[rows.block, :, rows.offset] = v[:, :, 0]
        found = [together_attend(q[group.rows], pages, group) for group in rows.groups]
        return found[0] if len(found) == 1 else torch.cat(found)

    return attend


def together_attend(q: Float[Tensor, "N h 1 K"], pages: KVCache, group: Together) -> Float[Tensor, "N h 1 K"]:
    """Attend from the tokens of a few sequences to all that is held of each: a group of query heads per key head."""
    B, t, heads, g = len(group.table), group.count, q.shape[1], pages.keys.shape[1]
    k, v = gather(pages.keys, group.table), gather(pages.values, group.table)
    q = q.view(B, t, heads, -1).transpose(1, 2).reshape(B, g, heads // g * t, -1)  # neighbouring heads share a key head
    mask = group.mask if heads == g else group.mask.repeat(1, 1, heads // g, 1)
    out = attend_fused(q, k, v, mask).reshape(B, heads, t, -1)
    return out.transpose(1, 2).reshape(B * t, heads, 1, -1)


def gather(pages: Float[Tensor, "P g b K"], table: Int[Tensor, "B n"]) -> Float[Tensor, "B g S K"]:
    """Copy the blocks of each sequence side by side, in the order of its table."""
    g, b, K = pages.shape[1:]
    rows = table[:, None] * g + torch.arange(g, device=table.device)[:, None]  # [B, g, n]: a key head of a block
    found = pages.reshape(-1, b * K).index_select(0, rows.flatten())  # pages are contiguous: no copy
    return found.view(len(table), g, -1, K)
