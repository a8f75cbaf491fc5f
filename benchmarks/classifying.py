"""What the benchmarks of sentiment and labelling share: a classifier trained with its rate going up, then down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

import llmlab as lab
from llmlab.text import LabelledBatches

Batch = tuple[Tensor, Tensor, Tensor]


def hiding(batches: Iterable[Batch], share: float, hidden: int = 0, seed: int = 0) -> Iterator[Batch]:
    """Put `hidden` in the place of a share of the tokens, others each time, so that no single word is leaned on."""
    draw = torch.Generator().manual_seed(seed)
    for tokens, lengths, targets in batches:
        yield tokens.masked_fill(torch.rand(tokens.shape, generator=draw) < share, hidden), lengths, targets


def train(model: lab.Classifier, batches: LabelledBatches, lr: float, share_hidden: float = 0.0, seed: int = 0) -> None:
    """Train through the batches: warm-up for a tenth of the steps, then in a line down to a fiftieth of the rate."""
    steps = len(batches) * (batches.epochs or 1)
    optimizer = lab.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    factor = lab.optim.warm_up(steps // 10, lab.optim.linear(steps - steps // 10, floor=0.02))
    trainer = lab.Trainer(model, optimizer, schedule=lab.optim.LRScheduler(optimizer, factor), clip=1.0)
    trainer.fit(hiding(batches, share_hidden, seed=seed), progress=False)
