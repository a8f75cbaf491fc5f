"""Scores of a model over batches: loss, perplexity, accuracy, and which class is taken for which.

A batch unpacks as (inputs ..., targets); a target of IGNORE does not count. Every mean is over all target tokens at
once: a mean of the batches' means would weigh a short batch as much as a long one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.model import IGNORE, cross_entropy

Batch = Iterable[Tensor]
Forward = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> logits


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True  # module.train() would switch its children too, also those that were off


def on_device(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Bring a batch to where the model is."""
    device = next(model.parameters()).device
    return [tensor.to(device) for tensor in batch]


def logits_of(model: nn.Module, batch: Batch) -> Float[Tensor, "*B V"]:
    """Give all but the last tensor of the batch to the model."""
    *inputs, _ = on_device(model, batch)
    return model(*inputs)


def mean_loss(model: nn.Module, batches: Iterable[Batch], forward: Forward = logits_of) -> float:
    """Compute the cross-entropy in nats per target token: no label smoothing, no balancing loss.

    `forward` computes the logits where the model wants more than the batch's inputs, such as a document mask.
    """
    total, n = 0.0, 0
    for logits, targets in _outputs(model, batches, forward):
        total += cross_entropy(logits, targets, reduction="sum").item()
        n += int((targets != IGNORE).sum())
    return total / n


def perplexity(model: nn.Module, batches: Iterable[Batch], forward: Forward = logits_of) -> float:
    """Compute exp(nats per target token): choosing blindly among so many tokens would be as hard to predict."""
    return math.exp(mean_loss(model, batches, forward))


def accuracy(model: nn.Module, batches: Iterable[Batch], forward: Forward = logits_of) -> float:
    """Compute the share of targets that the model finds likeliest, 0 to 1."""
    targets, predicted = predictions(model, batches, forward)
    return (targets == predicted).double().mean().item()


def predictions(
    model: nn.Module, batches: Iterable[Batch], forward: Forward = logits_of
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Give every target and, beside it, what the model finds likeliest."""
    truth, predicted = [], []
    for logits, targets in _outputs(model, batches, forward):
        counted = targets != IGNORE
        truth.append(targets[counted])
        predicted.append(logits.argmax(-1)[counted])
    return torch.cat(truth), torch.cat(predicted)


def confusion(
    targets: Int[Tensor, " N"] | Iterable[int], predicted: Int[Tensor, " N"] | Iterable[int], n_class: int
) -> Int[Tensor, "C C"]:
    """Count how often class `row` was taken for class `column`; the diagonal is what is right."""
    truth, guess = (torch.as_tensor(x if isinstance(x, Tensor) else list(x)) for x in (targets, predicted))
    if truth.shape != guess.shape:
        raise ValueError(f"confusion wants as many predictions as targets, got {len(guess)} and {len(truth)}")
    for name, classes in (("targets", truth), ("predictions", guess)):
        if len(classes) and not (0 <= int(classes.min()) and int(classes.max()) < n_class):
            raise ValueError(
                f"{name} want classes 0 to {n_class - 1}, got {int(classes.min())} to {int(classes.max())}"
            )
    return torch.bincount(truth.long() * n_class + guess, minlength=n_class**2).view(n_class, n_class)


def _outputs(model: nn.Module, batches: Iterable[Batch], forward: Forward) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through (logits, targets), batch by batch. Raises ValueError if there is no target at all."""
    counted = False
    with evaluating(model):
        for batch in batches:
            if isinstance(batch, Tensor):
                raise ValueError("batches want to be many of (inputs ..., targets), got tensors: pass [batch]")
            *_, targets = batch
            counted = counted or bool((targets != IGNORE).any())
            logits = forward(model, batch)
            yield logits, targets.to(logits.device)
    if not counted:
        raise ValueError("a score wants at least one target token, got none")
