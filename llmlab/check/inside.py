"""Exercises of notebook 07c: two speeds, a layer through the lens, a patch, and how far it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine


def two_speeds(answer: Callable[..., Any]) -> Result:
    """`answer(seconds, prompt)`: (tokens read per second, tokens written per second after the first).

    seconds: that each new token took.  prompt: its number of tokens.
    """
    hint = "prompt / seconds[0], and the number of the others by the sum of their seconds."
    return examine("two_speeds", answer, _speeds(answer), hint)


def _speeds(answer: Any) -> Iterator[Case]:
    for seconds, prompt in (([2.0, 0.5, 0.25, 0.25], 60), ([0.5, 0.125, 0.125], 8)):
        total, n = sum(seconds), len(seconds)
        read, written = prompt / seconds[0], (n - 1) / sum(seconds[1:])
        mistakes = [
            ([read, n / total], "the first token's time is reading, not writing: leave it out of the second figure."),
            ([read, n / sum(seconds[1:])], "one token too many: the first came out of the reading."),
            ([prompt / total, written], "the prompt was read before the first token: divide by seconds[0] alone."),
            ([1 / seconds[0], written], "all of the prompt was read in that time: its number of tokens by seconds[0]."),
            ([seconds[0] / prompt, 1 / written], "seconds per token: tokens per second are wanted."),
        ]
        what = f"seconds {seconds}, a prompt of {prompt}"
        yield Case(what, partial(answer, list(seconds), prompt), [read, written], mistakes)


def lens_logits(answer: Callable[..., Any]) -> Result:
    """`answer(x, gain, table)`: the logits [V] of a residual stream x [D], by RMSNorm (eps 0) and the output table.

    gain: [D], the norm's weight.  table: [V, D].
    """
    hint = "x / sqrt(mean(x²)), times gain, then table @ that."
    return examine("lens_logits", answer, _lenses(answer), hint)


def _lenses(answer: Any) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    for size, words in ((4, 3), (8, 5)):
        x, gain = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
        table = torch.randn(words, size, generator=generator, dtype=torch.float64)
        unit = x / x.square().mean().sqrt()
        mistakes = [
            (table @ x, "the final norm is missing: the table was trained to read what comes out of it."),
            (table @ unit, "the norm without its weight: multiply by gain, number by number."),
            (table @ (x / x.norm() * gain), "divided by the length: RMSNorm divides by the root of the *mean* square."),
            ((table @ (unit * gain)).softmax(-1), "these are probabilities: the logits are wanted."),
        ]
        run = partial(answer, x.clone(), gain.clone(), table.clone())
        yield Case(f"{size} numbers, {words} words", run, table @ (unit * gain), mistakes)


def patched_stream(answer: Callable[..., Any]) -> Result:
    """`answer(own, other, position)`, streams [T, D]: the own, with the other one at this position; neither changed."""
    hint = "x = own.clone(); x[position] = other[position]; return x."
    return examine("patched_stream", answer, _patches(answer), hint)


def _patches(answer: Any) -> Iterator[Case]:
    for T, position in ((4, 2), (5, 0)):
        own = torch.arange(T * 3, dtype=torch.float64).view(T, 3)
        other = own + 100
        right, reverse, added, column = own.clone(), other.clone(), own.clone(), own.clone()
        right[position], reverse[position] = other[position], own[position]
        added[position] += other[position]
        column[:, min(position, 2)] = other[:, min(position, 2)]
        mistakes = [
            (other, "all of the other run: only one position is patched."),
            (reverse, "the wrong way round: the own stream, with the other's at one position."),
            (added, "added: the other's takes the place of the own."),
            (column, "that is one number of every position: the first dimension is the positions."),
        ]
        yield Case(
            f"{T} positions, patch {position}", partial(_untouched, answer, own, other, position), right, mistakes
        )


def _untouched(answer: Any, own: Tensor, other: Tensor, position: int) -> Any:
    """Ask with copies; what changed one of them gives that one's name in place of a result."""
    mine, theirs = own.clone(), other.clone()
    got = answer(mine, theirs, position)
    for name, now, before in (("own", mine, own), ("other", theirs, other)):
        if not torch.equal(now, before):
            raise ValueError(f"{name} was changed: the run it is from would be another; work on a clone")
    return got


def way_restored(answer: Callable[..., Any]) -> Result:
    """`answer(patched, clean, corrupt)`, differences of logits: how much of the way from corrupt (0) to clean (1)."""
    hint = "(patched - corrupt) / (clean - corrupt)."
    return examine("way_restored", answer, _ways(answer), hint)


def _ways(answer: Any) -> Iterator[Case]:
    for patched, clean, corrupt in ((3.0, 6.0, -4.0), (-5.0, 5.5, -4.5), (7.0, 6.0, 1.0)):
        mistakes = [
            (patched / clean, "without a patch this would not be 0: subtract corrupt, above and below."),
            ((patched - corrupt) / clean, "the whole way is from corrupt to clean: divide by clean - corrupt."),
            ((clean - patched) / (clean - corrupt), "what is still missing: 1 less that is what was restored."),
            (patched - corrupt, "how far, not how much of the way: divide by the whole way."),
        ]
        right = (patched - corrupt) / (clean - corrupt)
        what = f"patched {patched}, clean {clean}, corrupt {corrupt}"
        yield Case(what, partial(answer, patched, clean, corrupt), right, mistakes)
