"""Exercises of notebook 04: LayerNorm, a block's parameters, the loss of the next token, the shift of a decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from llmlab.check.examine import Case, Result, examine

EPS = 1e-5


def layer_norm(answer: Callable[..., Any]) -> Result:
    """`answer(x, weight, bias)`, x of shape [T, D]: each row normed over D, with ε 1e-5, times weight, plus bias."""
    hint = "(x - mean) / √(variance + ε) over the last dimension, keepdim=True; then times weight, plus bias."
    return examine("layer_norm", answer, _norms(answer), hint)


def _norms(answer: Any) -> Iterator[Case]:
    for rows, scale in ((3, 1.0), (4, 1e-2)):
        x = scale * (torch.arange(rows * 5, dtype=torch.float64) ** 1.5).view(rows, 5).cos()
        weight, bias = torch.linspace(0.5, 2.0, 5, dtype=torch.float64), torch.linspace(-1.0, 1.0, 5).double()
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        plain = (x - mean) / (variance + EPS).sqrt()
        over_time = (x - x.mean(0)) / (x.var(0, correction=0) + EPS).sqrt()
        rms = x / ((x * x).mean(-1, keepdim=True) + EPS).sqrt()
        unbiased = (x - mean) / (x.var(-1, keepdim=True) + EPS).sqrt()
        mistakes = [
            (plain, "weight and bias, one number for each of the D features, are missing."),
            (over_time * weight + bias, "that norms over the tokens: each token is normed on its own, over D."),
            (rms * weight + bias, "the mean is not taken off: that is RMSNorm."),
            (unbiased * weight + bias, "the variance divides by D, not D - 1: var(..., correction=0)."),
            ((x - mean) / (variance.sqrt() + EPS) * weight + bias, "ε stands inside the root here."),
        ]
        run = partial(answer, x.clone(), weight.clone(), bias.clone())
        yield Case(f"{rows} tokens of size about {scale:g}", run, plain * weight + bias, mistakes)


def block_parameters(answer: Callable[..., Any]) -> Result:
    """`answer(d_model, d_ff)`: the parameters of a block as in GPT-2: attention, MLP, two LayerNorms, all biases."""
    hint = "attention 4 (D² + D), MLP 2 D F + F + D, norms 2 x 2 D."
    return examine("block_parameters", answer, _blocks(answer), hint)


def _blocks(answer: Any) -> Iterator[Case]:
    for d, f in ((64, 256), (768, 3072), (10, 7)):
        matrices, biases, norms = 4 * d * d + 2 * d * f, 5 * d + f, 4 * d
        mistakes = [
            (matrices, "the matrices alone: biases and norms are missing."),
            (matrices + norms, "the biases are missing: 4 D in attention, F + D in the MLP."),
            (matrices + biases, "the two norms are missing: each has a weight and a bias of D numbers."),
            (matrices + biases + norms // 2, "two norms: one before each sublayer."),
            (matrices + biases + norms - d * d - d, "attention has four matrices: query, key, value and output."),
        ]
        what = f"d_model {d}, d_ff {f}"
        yield Case(what, partial(answer, d, f), matrices + biases + norms, mistakes)


def next_token_loss(answer: Callable[..., Any]) -> Result:
    """`answer(logits, tokens)`, [T, V] and [T]: the mean cross-entropy of the tokens that follow, in nats."""
    hint = "log_softmax over V; row t is asked for tokens[t + 1], so the last row is asked for nothing; take the mean."
    return examine("next_token_loss", answer, _losses(answer), hint)


def _losses(answer: Any) -> Iterator[Case]:
    for T, V in ((4, 3), (6, 9)):
        logits = (torch.arange(T * V, dtype=torch.float64) * 0.7).sin().view(T, V) * 3
        tokens = (torch.arange(T) * 2 + 1) % V

        def picked(log_p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return -log_p[: len(targets)].gather(1, targets[:, None])

        right = picked(logits.log_softmax(-1), tokens[1:])
        mistakes = [
            (picked(logits.log_softmax(-1), tokens).mean(), "row t was asked for token t, which it has just read."),
            (picked(logits.log_softmax(0), tokens[1:]).mean(), "the softmax is over the vocabulary, not over time."),
            (right.sum(), "the mean over the targets, not their sum."),
            (right.sum() / T, "T tokens have T - 1 that follow one."),
            (-right.mean(), "the sign: a likely target has a small, positive loss."),
        ]
        yield Case(f"{T} tokens of {V}", partial(answer, logits.clone(), tokens.clone()), right.mean(), mistakes)


def decoder_inputs(answer: Callable[..., Any]) -> Result:
    """`answer(targets, start)`, [B, T]: what a decoder reads while it is asked for the targets."""
    hint = "a column of `start`, then the targets without their last column."
    return examine("decoder_inputs", answer, _shifts(answer), hint)


def _shifts(answer: Any) -> Iterator[Case]:
    for targets, start in ((torch.tensor([[5, 6, 7]]), 1), (torch.tensor([[3, 4], [8, 9]]), 0)):
        column = torch.full((len(targets), 1), start)
        mistakes = [
            (targets, "each place would read its own answer."),
            (targets.roll(1, dims=1), "rolled around: the first place reads the last answer; it must read `start`."),
            (torch.cat((targets[:, 1:], column), 1), "the other way round: place t would read answer t + 1."),
            (torch.cat((column, targets), 1), "one too long: the last target is not read by anybody."),
        ]
        right = torch.cat((column, targets[:, :-1]), 1)
        yield Case(f"targets {targets.tolist()}", partial(answer, targets.clone(), start), right, mistakes)


def sorted_digits(answer: Callable[..., Any]) -> Result:
    """`answer(source)`: the targets of a model that sorts: each row of [B, T] in ascending order."""
    hint = "source.sort(-1).values."
    return examine("sorted_digits", answer, _sorts(answer), hint)


def _sorts(answer: Any) -> Iterator[Case]:
    for rows in ([[3, 1, 2, 3], [9, 0, 5, 4]], [[7, 2, 7]]):
        source = torch.tensor(rows)
        mistakes = [
            (source.flip(-1), "backwards: that is what the reverser learns."),
            (source.sort(-1, descending=True).values, "from the largest: ascending is asked."),
            (source.argsort(-1), "the places of the digits; asked are the digits."),
            (
                source.flatten().sort().values.view_as(source),
                "sorted over the whole batch: each row has its own digits.",
            ),
            (source.sort(0).values, "sorted down the batch: sort along the text, the last dimension."),
        ]
        yield Case(f"rows {rows}", partial(answer, source.clone()), source.sort(-1).values, mistakes)


def prefix_mask(answer: Callable[..., Any]) -> Result:
    """`answer(n_prefix, T)`: [T, T], true where token t (row) may look at token s: freely in a prefix, causally behind.

    A question that is read as an encoder reads, and its answer, written as a decoder writes, in one text.
    """
    hint = "causal, torch.ones(T, T).tril().bool(), or the column lies in the prefix: torch.arange(T) < n_prefix."
    return examine("prefix_mask", answer, _prefixes(answer), hint)


def _prefixes(answer: Any) -> Iterator[Case]:
    for n_prefix, T in ((3, 5), (1, 4), (4, 4)):
        causal, inside = torch.ones(T, T).tril().bool(), torch.arange(T) < n_prefix
        right = causal | inside
        mistakes = [
            (causal, "causal throughout: within the prefix a token may look ahead."),
            (causal | inside[:, None], "the prefix sees the answer: its rows may look at the prefix only."),
            (causal & ~inside | inside[:, None] & inside, "the answer does not see the prefix it answers."),
            (right.T, "rows and columns the wrong way round: row t is who looks."),
            (torch.ones(T, T), "everybody sees everything: the answer could read its own end."),
        ]
        yield Case(f"{T} tokens, {n_prefix} of them prefix", partial(answer, n_prefix, T), right, mistakes)
