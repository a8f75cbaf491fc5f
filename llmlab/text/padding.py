"""Texts with labels, in batches: rows of their own lengths, padded to the longest of their batch.

Unlike `packing`, a row holds one text: what is asked is its class, or a class for each of its tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from llmlab.arguments import listing, whole

from .packing import IGNORE

POOL = 50  # batches that are sorted by length together: little padding, and still another mixture each epoch


def padded(rows: Sequence[Sequence[int]], fill: int = 0) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"]]:
    """Put rows of token ids into one tensor, padded at the end with `fill`, and say how long each is.

    Raises: ValueError for an empty row: it has no mean.
    """
    found = [listing("padded", "each row", row, "token ids") for row in listing("padded", "rows", rows, "[ids]")]
    if not found or not all(found):
        raise ValueError(f"padded wants rows of at least one token, got {'an empty one' if found else 'no row'}")
    longest = max(map(len, found))
    tokens = torch.tensor([row + [fill] * (longest - len(row)) for row in found])
    return tokens, torch.tensor([len(row) for row in found])


@dataclass(frozen=True)
class LabelledBatches:
    """An iterable of (tokens, lengths, targets); iterating twice gives the same twice."""

    rows: list[list[int]]
    targets: list[int] | list[list[int]]
    batch: int
    seed: int | None
    epochs: int | None

    def __len__(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.rows) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        epoch = 0
        while self.epochs is None or epoch < self.epochs:
            for chosen in self._order(epoch):
                tokens, lengths = padded([self.rows[i] for i in chosen])
                here = [self.targets[i] for i in chosen]
                per_token = isinstance(here[0], list)
                yield tokens, lengths, padded(here, IGNORE)[0] if per_token else torch.tensor(here)  # type: ignore[arg-type]
            epoch += 1

    def _order(self, epoch: int) -> list[list[int]]:
        order = list(range(len(self.rows)))
        if self.seed is None:
            return self._cut(order)
        draw = random.Random(f"{self.seed}/{epoch}")
        draw.shuffle(order)
        size = self.batch * POOL
        pools = (sorted(order[i : i + size], key=lambda i: len(self.rows[i])) for i in range(0, len(order), size))
        found = [chosen for pool in pools for chosen in self._cut(pool)]
        draw.shuffle(found)
        return found

    def _cut(self, order: list[int]) -> list[list[int]]:
        return [order[i : i + self.batch] for i in range(0, len(order), self.batch)]


def labelled_batches(
    rows: Sequence[Sequence[int]],
    targets: Sequence[int] | Sequence[Sequence[int]],
    batch: int = 32,
    seed: int | None = 0,
    epochs: int | None = 1,
    max_seq: int | None = None,
) -> LabelledBatches:
    """Go through texts with their classes: `for tokens, lengths, targets in labelled_batches(rows, classes): ...`.

    rows: token ids of each text.  targets: a class per text, or a list of them per text, one for each token.
    seed: of the shuffle, a new one each epoch, in which texts of like length stand together; None keeps the order.
    epochs: None for ever.  max_seq: longer texts are cut at the end, and so are their targets.
    """
    given = [listing("labelled_batches", "each row", row, "token ids") for row in rows]
    found = listing("labelled_batches", "targets", targets, "classes, or lists of classes")
    per_token = bool(found) and not isinstance(found[0], int)
    found = [listing("labelled_batches", "each target", each) for each in found] if per_token else found
    if not given or len(given) != len(found):
        raise ValueError(f"labelled_batches wants a target for each row, got {len(found)} for {len(given)} rows")
    if per_token and any(len(a) != len(b) for a, b in zip(given, found, strict=True)):
        raise ValueError("labelled_batches wants a target for each token of a row, got another number of them")
    whole("labelled_batches", "batch", batch, least=1)
    if max_seq is not None:
        whole("labelled_batches", "max_seq", max_seq, least=1)
        given = [row[:max_seq] for row in given]
        found = [each[:max_seq] for each in found] if per_token else found
    return LabelledBatches(given, found, batch, seed, epochs)
