"""From documents of token ids to batches: pack them into rows without padding, remember where each one begins.

Documents are laid end to end and cut into rows of `seq` tokens, as GPT-3 was trained (Brown et al. 2020, appendix B).
A target is the next token *of the same document*, else IGNORE, so no model is asked to guess how an unrelated document
begins. Attention still looks across the border, unless it gets a document mask, made from `Batch.documents`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

IGNORE = -100  # what torch's cross-entropy leaves out by default


@dataclass(frozen=True)
class Batch:
    """Rows of tokens with what comes next; unpacks as `tokens, targets`.

    targets: the token after each token, IGNORE where its document ends.  documents: which document a token is of, -1
    for padding (only at the end of the last row of all).  positions: places counted from the document's own start.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    documents: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.tokens, self.targets))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        return Batch(self.tokens[rows], self.targets[rows], self.documents[rows], self.positions[rows])


def pack(documents: Sequence[Sequence[int]] | Sequence[int] | Tensor, seq: int, end: int | None = None) -> Batch:
    """Lay documents of token ids end to end and cut them into rows of `seq` tokens: all rows, as one Batch.

    documents: lists of ids, or the ids of one document.  end: an id put after every document, which its last token then
    has to predict; without it that last token has no target. Every token but a document's first is a target once.
    """
    documents = _documents(documents)
    if end is not None:
        documents = [[*document, end] for document in documents]
    stream = torch.tensor([i for document in documents for i in document], dtype=torch.long)
    if not 1 <= seq < len(stream):
        raise ValueError(f"seq must be at least 1 and below the number of tokens, {len(stream)}, got {seq}")
    number = torch.tensor([n for n, document in enumerate(documents) for _ in document])
    place = torch.tensor([i for document in documents for i in range(len(document))])
    targets = torch.full_like(stream, IGNORE)
    targets[:-1] = torch.where(number[1:] == number[:-1], stream[1:], IGNORE)
    if (targets == IGNORE).all():
        raise ValueError("a target is the next token of the same document, but no document has two tokens")
    filled = zip((stream, targets, number, place), (0, IGNORE, -1, 0), strict=True)
    rows = Batch(*(_rows(values, seq, fill) for values, fill in filled))
    return rows[(rows.targets != IGNORE).any(dim=1)]  # a row that asks nothing teaches nothing


@dataclass(frozen=True)
class Batches:
    """An iterable of `Batch`: `len(batches)` of them an epoch, in an order that depends on seed and epoch alone.

    Iterating twice gives the same twice. `start` skips so many batches at no cost, counted over epochs: a run stopped
    after step 1000 goes on with `start=1000`.
    """

    rows: Batch
    batch: int
    seed: int | None
    start: int
    epochs: int | None
    drop_last: bool

    def __len__(self) -> int:
        """Batches in one epoch."""
        return len(self.rows) // self.batch if self.drop_last else -(-len(self.rows) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        step = self.start
        while self.epochs is None or step < self.epochs * len(self):
            epoch, first = divmod(step, len(self))
            order = self._order(epoch)
            for i in range(first, len(self)):
                yield self.rows[order[i * self.batch : (i + 1) * self.batch]]
                step += 1

    def _order(self, epoch: int) -> Tensor:
        order = list(range(len(self.rows)))
        if self.seed is not None:
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return torch.tensor(order)


def batches(
    documents: Sequence[Sequence[int]] | Sequence[int] | Tensor,
    batch: int = 8,
    seq: int = 64,
    seed: int | None = 0,
    start: int = 0,
    epochs: int | None = 1,
    drop_last: bool = True,
    end: int | None = None,
) -> Batches:
    """Pack documents of token ids and go through them in batches: `for tokens, targets in batches(ids, 8, 64): ...`.

    seed: of the shuffle, a new one each epoch; None keeps the order.  start: the batch to begin at, to resume.
    epochs: None for ever.  drop_last: leave out a last batch of fewer rows, so that all have one shape; for an
    evaluation that counts every token, take False.  end: see `pack`.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1, or None for ever, got {epochs}")
    rows = pack(documents, seq, end)
    if drop_last and len(rows) < batch:
        raise ValueError(f"the text must fill a batch of {batch} rows of {seq} tokens, got {len(rows)} rows")
    return Batches(rows, batch, seed, start, epochs, drop_last)


def _documents(documents: Iterable) -> list[list[int]]:
    """Accept the ids of one document where a list of documents is wanted; drop empty ones."""
    documents = documents.tolist() if isinstance(documents, Tensor) else list(documents)
    if documents and isinstance(documents[0], int):
        documents = [documents]
    documents = [list(document) for document in documents if len(document)]
    if not documents:
        raise ValueError("batches need tokens, got an empty corpus")
    return documents


def _rows(stream: Tensor, seq: int, fill: int) -> Tensor:
    """Cut into rows of `seq`, the last one filled up."""
    missing = -len(stream) % seq
    return torch.nn.functional.pad(stream, (0, missing), value=fill).view(-1, seq)
