"""From documents of token ids to batches: pack them into rows without padding, remember where each one begins.

Documents are laid end to end and cut into rows of `seq` tokens, as GPT-3 was trained (Brown et al. 2020, appendix B).
A target is the next token *of the same document*, else IGNORE, so no model is asked to guess how an unrelated document
begins. Attention still looks across the border, unless it gets a document mask, made from `Batch.documents`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from llmlab.arguments import flag, whole

from .streams import Ids, lay_out

Documents = Sequence[Sequence[int] | Tensor | Ids] | Sequence[int] | Tensor | Ids
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


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows, as a list of them would be; what is in a row is looked up when it is asked for, and not before.

    stream: the tokens of all documents, perhaps in a file.  starts: where each document begins.  asking: the numbers of
    the rows that have a target.
    """

    stream: Ids
    starts: NDArray[np.int64]
    seq: int
    asking: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.asking)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        numbers = self.asking[rows if isinstance(rows, slice) else rows.numpy()]
        place = numbers[:, None] * self.seq + np.arange(self.seq)  # [B, T], in the stream
        size = len(self.stream)
        document = np.searchsorted(self.starts, place, side="right") - 1
        stops = np.append(self.starts[1:], size)
        more = place + 1 < stops[document]
        found = (
            (self.stream[np.minimum(place, size - 1)], 0),
            (np.where(more, self.stream[np.minimum(place + 1, size - 1)].astype(np.int64), IGNORE), IGNORE),
            (document, -1),
            (place - self.starts[document], 0),
        )  # and what stands in the place of each beyond the end
        return Batch(*(torch.from_numpy(np.where(place < size, x.astype(np.int64), fill)) for x, fill in found))


def rows_of(documents: Documents, seq: int, end: int | None = None) -> Rows:
    """Lay documents end to end and cut them into rows, as `pack` does, reading none of them yet."""
    if end is not None:
        whole("pack", "end", end, least=0)
    stream, starts = lay_out(documents, end)
    if len(stream) < 2:
        raise ValueError(
            f"a target is the next token of the same document: wants two tokens or more, got {len(stream)}"
        )
    seq = whole("pack", "seq (below the number of tokens)", seq, least=1, most=len(stream) - 1)
    asking = asking_rows(len(stream), starts, seq)
    if not len(asking):
        raise ValueError("a target is the next token of the same document, but no document has two tokens")
    return Rows(stream, starts, seq, asking)


def asking_rows(n_token: int, starts: NDArray[np.int64], seq: int) -> NDArray[np.int64]:
    """Return the numbers of the rows that have a target: a row that asks nothing teaches nothing."""
    last = np.append(starts[1:], n_token) - 1  # of each document: no target
    n_row = -(-n_token // seq)
    filled = np.full(n_row, seq)
    filled[-1] = n_token - (n_row - 1) * seq
    return np.flatnonzero(np.bincount(last // seq, minlength=n_row) < filled)


def pack(documents: Documents, seq: int, end: int | None = None) -> Batch:
    """Lay documents of token ids end to end and cut them into rows of `seq` tokens: all rows, as one Batch.

    documents: lists of ids, arrays or tensors of any integer dtype, or the ids of one document.  end: an id put after
    every document, which its last token then has to predict; without it that last token has no target. Every token but
    a document's first is a target once.
    """
    return rows_of(documents, seq, end)[:]


@dataclass(frozen=True)
class Batches:
    """An iterable of `Batch`: `len(batches)` of them an epoch, in an order that depends on seed and epoch alone.

    Iterating twice gives the same twice. `start` skips so many batches at no cost, counted over epochs: a run stopped
    after step 1000 goes on with `start=1000`.
    """

    rows: Rows
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
    documents: Documents,
    batch: int = 8,
    seq: int = 64,
    seed: int | None = 0,
    start: int = 0,
    epochs: int | None = 1,
    drop_last: bool = True,
    end: int | None = None,
) -> Batches:
    """Pack documents of token ids and go through them in batches: `for tokens, targets in batches(ids, 8, 64): ...`.

    documents: see `pack`. Of `np.memmap("train.bin", dtype=np.uint16, mode="r")`, the tokens of one document in a file,
    no more is read than each batch needs (with an `end`, all of it).
    seed: of the shuffle, a new one each epoch; None keeps the order.  start: the batch to begin at, to resume.
    epochs: None for ever.  drop_last: leave out a last batch of fewer rows, so that all have one shape; for an
    evaluation that counts every token, take False.  end: see `pack`.
    """
    batch, start = whole("batches", "batch", batch, least=1), whole("batches", "start", start, least=0)
    flag("batches", "drop_last", drop_last)
    if seed is not None:
        seed = whole("batches", "seed", seed)
    if epochs is not None:
        epochs = whole("batches", "epochs", epochs, least=1)
    rows = rows_of(documents, seq, end)
    if drop_last and len(rows) < batch:
        raise ValueError(f"the text must fill a batch of {batch} rows of {seq} tokens, got {len(rows)} rows")
    return Batches(rows, batch, seed, start, epochs, drop_last)
