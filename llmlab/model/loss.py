"""The loss, and the three ways to make targets from text: the next token, masked tokens, a second sequence."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor

from llmlab.arguments import choice, instance, real, whole
from llmlab.model.embedding import as_index

IGNORE = -100  # a target that does not count


def cross_entropy(
    logits: Float[Tensor, "*B V"], targets: Integer[Tensor, "*B"], label_smoothing: float = 0.0, reduction: str = "mean"
) -> Float[Tensor, "*C"]:
    """Compute -log softmax(logits)[target] in nats: the mean over targets that are not IGNORE, the "sum", or "none".

    The mean over no target at all is nan, but its gradient 0: asking first would make a GPU wait. Label smoothing e
    moves a share e of each target evenly over the vocabulary (Szegedy et al. 2016, section 7). 16-bit logits are taken
    to fp32 first. Raises ValueError for targets of another shape than the tokens', that are no integers, or outside the
    vocabulary (on a GPU torch's own error, and later).
    """
    choice("cross_entropy", "reduction", reduction, ("mean", "sum", "none"))
    instance("cross_entropy", "logits", logits, Tensor)
    real("cross_entropy", "label_smoothing", label_smoothing, least=0, below=1)
    targets = as_targets(targets, logits)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    flat = logits.flatten(0, -2), targets.flatten()
    how = "sum" if reduction == "mean" else reduction
    try:
        loss = F.cross_entropy(*flat, ignore_index=IGNORE, label_smoothing=label_smoothing, reduction=how)
    except IndexError:  # asked only now: looking at the values first would cost every step
        raise outside_vocabulary(targets, logits.shape[-1]) from None
    if reduction == "none":
        return loss.view_as(targets)
    return mean_of(loss, (targets != IGNORE).sum()) if reduction == "mean" else loss


def mean_of(total: Float[Tensor, ""], n: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """Divide a sum over targets by their number: nan for none, with gradients of 0, so that no weight becomes nan."""
    return torch.where(n > 0, total / n.clamp(min=1), torch.nan)


def as_targets(targets: Any, logits: Float[Tensor, "*B v"]) -> Int[Tensor, "*B"]:
    """Return the targets as integers that torch can look up by, one for each row of logits."""
    if not isinstance(targets, Tensor) or targets.shape != logits.shape[:-1]:
        found = tuple(targets.shape) if isinstance(targets, Tensor) else f"a {type(targets).__name__}"
        raise ValueError(f"targets want the shape of the tokens, {tuple(logits.shape[:-1])}, got {found}")
    return as_index("targets", targets).long()


def outside_vocabulary(targets: Tensor, vocab_size: int) -> ValueError:
    """Make the error for a target that is no token, and not IGNORE."""
    wrong = targets[(targets != IGNORE) & ((targets < 0) | (targets >= vocab_size))]
    return ValueError(
        f"targets wants numbers from 0 to {vocab_size - 1}, got {int(wrong[0])}; "
        f"where there is nothing to predict (padding, a document's end) write the ignore_index, {IGNORE}"
    )


def next_token(tokens: Int[Tensor, "B T1"]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Make (inputs, targets) of a causal model: the targets are the inputs moved by one."""
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.shape[1] < 2:
        found = list(tokens.shape) if isinstance(tokens, Tensor) else f"a {type(tokens).__name__}"
        raise ValueError(f"next_token wants tokens [B, T + 1] with T of at least 1, got {found}")
    return tokens[:, :-1], tokens[:, 1:]


def masked_tokens(
    tokens: Int[Tensor, "B T"], mask_token: int, vocab_size: int, generator: torch.Generator, share: float = 0.15
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Make (inputs, targets) of an encoder: guess a share of the tokens from both sides (Devlin et al. 2019).

    Of those chosen 80% become `mask_token`, 10% a random token and 10% stay, so that no input can be trusted blindly.
    """
    instance("masked_tokens", "tokens", tokens, Tensor)
    instance("masked_tokens", "generator", generator, torch.Generator)
    whole("masked_tokens", "vocab_size", vocab_size, least=1)
    whole("masked_tokens", "mask_token", mask_token, least=0)  # often the number after the vocabulary's last
    real("masked_tokens", "share", share, least=0, most=1)
    chance = torch.rand(tokens.shape, generator=generator, device=generator.device)
    chosen = chance < share
    noise = torch.randint(vocab_size, tokens.shape, generator=generator, device=generator.device)
    inputs = tokens.masked_fill(chance < 0.8 * share, mask_token)
    inputs = torch.where((chance >= 0.8 * share) & (chance < 0.9 * share), noise, inputs)
    return inputs, tokens.masked_fill(~chosen, IGNORE)


def shifted_right(targets: Int[Tensor, "B T"], start_token: int) -> Int[Tensor, "B T"]:
    """Make a decoder's inputs from its targets: it sees the tokens before the one it is asked for."""
    instance("shifted_right", "targets", targets, Tensor)
    whole("shifted_right", "start_token", start_token, least=0)
    inputs = targets.masked_fill(targets == IGNORE, start_token).roll(1, dims=1)
    inputs[:, 0] = start_token
    return inputs
