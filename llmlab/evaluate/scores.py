"""Scores of a model over batches: loss, perplexity, accuracy, and which class is taken for which.

A batch unpacks as (inputs ..., targets); a target of IGNORE does not count. Every mean is over all target tokens at
once: a mean of the batches' means would weigh a short batch as much as a long one.

Wherever a model is wanted a training step that holds one will do. A split model is used as the whole one: all who hold
a part call alike, with the same batches, and get the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.arguments import function, instance, listing, whole
from llmlab.model import IGNORE, cross_entropy
from llmlab.model.whole import model_of, used_whole, whole_of

Batch = Iterable[Tensor]
Forward = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> logits


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch dropout and gradients off; afterwards every module is in the mode it was in."""
    model = model_of("evaluating", model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True  # module.train() would switch its children too, also those that were off


def on_device(model: Any, batch: Batch) -> list[Tensor]:
    """Bring a batch to where the model is."""
    device = next(model_of("on_device", model).parameters()).device
    return [tensor.to(device) for tensor in batch]


def logits_of(model: Any, batch: Batch) -> Float[Tensor, "*B V"]:
    """Give all but the last tensor of the batch to the model."""
    *inputs, _ = on_device(model, batch)
    return model(*inputs)


def mean_loss(model: Any, batches: Iterable[Batch], forward: Forward = logits_of) -> float:
    """Compute the cross-entropy in nats per target token: no label smoothing, no balancing loss.

    `forward` computes the logits where the model wants more than the batch's inputs, such as a document mask.
    """
    whole, total, n = whole_of(model), 0.0, 0
    with used_whole("mean_loss", model) as one, evaluating(one):
        for batch, targets in _scored("mean_loss", batches, forward):
            if whole is not None and forward is logits_of:  # a loss needs no logits of everybody's
                tokens, *more, targets = on_device(one, batch)
                loss = whole.loss_sum(tokens, targets, *more)
            else:
                logits = forward(one, batch)
                loss = cross_entropy(logits, targets.to(logits.device), reduction="sum")
            total += loss.item()
            n += int((targets != IGNORE).sum())
    return total / n


def perplexity(model: Any, batches: Iterable[Batch], forward: Forward = logits_of) -> float:
    """Compute exp(nats per target token): choosing blindly among so many tokens would be as hard to predict."""
    try:
        return math.exp(mean_loss(model, batches, forward))
    except OverflowError:  # above 709 nats
        return math.inf


def accuracy(model: Any, batches: Iterable[Batch], forward: Forward = logits_of) -> float:
    """Compute the share of targets that the model finds likeliest, 0 to 1."""
    targets, predicted = predictions(model, batches, forward)
    return (targets == predicted).double().mean().item()


def predictions(
    model: Any, batches: Iterable[Batch], forward: Forward = logits_of
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Give every target and, beside it, what the model finds likeliest.

    Raises ValueError where logits are not finite: there is no likeliest then.
    """
    truth, predicted = [], []
    with used_whole("predictions", model) as one, evaluating(one):
        for batch, targets in _scored("predictions", batches, forward):
            logits = forward(one, batch)
            targets = targets.to(logits.device)
            counted = targets != IGNORE
            truth.append(targets[counted])
            predicted.append(finite("predictions", logits[counted]).argmax(-1))
    return torch.cat(truth), torch.cat(predicted)


def confusion(
    targets: Int[Tensor, " N"] | Iterable[int], predicted: Int[Tensor, " N"] | Iterable[int], n_class: int
) -> Int[Tensor, "C C"]:
    """Count how often class `row` was taken for class `column`; the diagonal is what is right."""
    n_class = whole("confusion", "n_class", n_class, least=1)
    truth, guess = (
        x if isinstance(x, Tensor) else torch.as_tensor(listing("confusion", name, x, "classes"))
        for name, x in (("targets", targets), ("predicted", predicted))
    )
    if truth.is_floating_point() or guess.is_floating_point():
        raise ValueError("confusion wants classes as whole numbers, got numbers with a fraction")
    if truth.shape != guess.shape:
        raise ValueError(f"confusion wants as many predictions as targets, got {len(guess)} and {len(truth)}")
    for name, classes in (("targets", truth), ("predictions", guess)):
        if len(classes) and not (0 <= int(classes.min()) and int(classes.max()) < n_class):
            raise ValueError(
                f"{name} want classes 0 to {n_class - 1}, got {int(classes.min())} to {int(classes.max())}"
            )
    return torch.bincount(truth.long() * n_class + guess, minlength=n_class**2).view(n_class, n_class)


def finite(call: str, logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
    """Give the logits back. Raises ValueError for a row in which no token is the likeliest: nan, inf, or -inf all over.

    A single -inf is a token ruled out, and welcome.
    """
    if logits.is_meta or not logits.numel() or bool(logits.amax(-1).isfinite().all()):
        return logits
    found = "nan" if bool(logits.isnan().any()) else "inf" if bool(logits.isposinf().any()) else "-inf"
    raise ValueError(
        f"{call} wants finite logits, got non-finite ones ({found}): the model has diverged, or its weights broke. "
        "Look whether a parameter is not finite (p.isfinite().all() for each of model.named_parameters()); if one is, "
        "train again from an earlier state with a lower learning rate, a warm-up or clip=1.0; if none is, a layer "
        "overflows: try a wider dtype"
    )


def _scored(call: str, batches: Iterable[Batch], forward: Forward) -> Iterator[tuple[Batch, Tensor]]:
    """Go through (batch, targets). Raises ValueError for what is no batch, and if there is no target at all."""
    function(call, "forward", forward, "model, batch")
    counted = False
    for batch in _many(call, "batches", batches):
        if isinstance(batch, Tensor):
            raise ValueError("batches want to be many of (inputs ..., targets), got tensors: pass [batch]")
        *inputs, targets = _many(call, "each batch", batch)
        if not inputs:
            raise ValueError(f"{call} wants (inputs ..., targets) in each batch, got one tensor only")
        targets = instance(call, "targets, the last of each batch,", targets, Tensor)
        counted = counted or bool((targets != IGNORE).any())
        yield batch, targets
    if not counted:
        raise ValueError("a score wants at least one target token, got none")


def _many(call: str, name: str, value: Any) -> Iterable[Any]:
    """Several things, which may come one by one and without an end."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return value
    return listing(call, name, value, "tensors (inputs ..., targets)")
