"""The model, whole: right answers, and wrong ones with their hints."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from llmlab.check.transformer import (
    block_parameters,
    decoder_inputs,
    layer_norm,
    next_token_loss,
    prefix_mask,
    sorted_digits,
)
from llmlab.model import Config, shifted_right


def norm(x, dim=-1, correction=0, inside=True):
    variance = x.var(dim, correction=correction, keepdim=True)
    return (x - x.mean(dim, keepdim=True)) / ((variance + 1e-5) ** 0.5 if inside else variance**0.5 + 1e-5)


def altered(**how):
    return lambda x, weight, bias: norm(x, **how) * weight + bias


def loss(logits, tokens, dim=-1, shift=1):
    log_p = logits.log_softmax(dim)[: len(logits) - shift]
    return -log_p.gather(1, tokens[shift:, None]).mean()


def column(targets, start):
    return torch.full_like(targets[:, :1], start)


def causal(n_prefix, T):
    return torch.ones(T, T).tril().bool()


def prefix(n_prefix, T):
    return torch.tensor([[s <= t or s < n_prefix for s in range(T)] for t in range(T)])


def blocks(n_prefix, T):
    return torch.tensor([[t < n_prefix if s < n_prefix else s <= t for s in range(T)] for t in range(T)])


RIGHT = [
    (layer_norm, lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias)),
    (block_parameters, lambda d, f: 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d),
    (next_token_loss, loss),
    (decoder_inputs, shifted_right),
    (block_parameters, lambda d, f: Config(9, d, 1, 1, 9, d_ff=f).n_param_block),
    (sorted_digits, lambda source: torch.stack([torch.tensor(sorted(row)) for row in source.tolist()])),
    (prefix_mask, prefix),
]
WRONG = [
    (layer_norm, lambda x, weight, bias: norm(x), "weight and bias"),
    (layer_norm, altered(dim=0), "norms over the tokens"),
    (layer_norm, lambda x, w, b: x / ((x**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * w + b, "that is RMSNorm"),
    (layer_norm, altered(correction=1), "divides by D, not"),
    (layer_norm, altered(inside=False), "inside the root"),
    (layer_norm, lambda x, weight, bias: x, "keepdim=True"),
    (block_parameters, lambda d, f: 4 * d * d + 2 * d * f, "the matrices alone"),
    (block_parameters, lambda d, f: 4 * d * d + 2 * d * f + 4 * d, "the biases are missing"),
    (block_parameters, lambda d, f: 4 * d * d + 2 * d * f + 5 * d + f, "the two norms are missing"),
    (block_parameters, lambda d, f: 4 * d * d + 2 * d * f + 7 * d + f, "one before each sublayer"),
    (block_parameters, lambda d, f: 3 * d * d + 2 * d * f + 8 * d + f, "four matrices"),
    (block_parameters, lambda d, f: 12 * d * d, "attention 4"),
    (next_token_loss, lambda logits, tokens: loss(logits, tokens, shift=0), "has just read"),
    (next_token_loss, lambda logits, tokens: loss(logits, tokens, dim=0), "not over time"),
    (next_token_loss, lambda logits, tokens: loss(logits, tokens) * (len(tokens) - 1), "not their sum"),
    (next_token_loss, lambda logits, tokens: loss(logits, tokens) * (1 - 1 / len(tokens)), "T - 1 that follow"),
    (next_token_loss, lambda logits, tokens: -loss(logits, tokens), "the sign"),
    (next_token_loss, lambda logits, tokens: logits.mean(), "log_softmax over V"),
    (decoder_inputs, lambda targets, start: targets, "its own answer"),
    (decoder_inputs, lambda targets, start: targets.roll(1, dims=1), "rolled around"),
    (
        decoder_inputs,
        lambda targets, start: torch.cat((targets[:, 1:], column(targets, start)), 1),
        "the other way round",
    ),
    (decoder_inputs, lambda targets, start: torch.cat((column(targets, start), targets), 1), "one too long"),
    (decoder_inputs, lambda targets, start: targets * 0, "a column of"),
    (sorted_digits, lambda source: source.flip(-1), "what the reverser learns"),
    (sorted_digits, lambda source: source.sort(-1).values.flip(-1), "from the largest"),
    (sorted_digits, lambda source: source.sort(-1).indices, "the places of the digits"),
    (sorted_digits, lambda source: source.flatten().sort().values.view_as(source), "over the whole batch"),
    (prefix_mask, causal, "may look ahead"),
    (prefix_mask, lambda n, T: causal(n, T) | (torch.arange(T) < n)[:, None], "the prefix sees the answer"),
    (prefix_mask, blocks, "does not see the prefix"),
    (prefix_mask, lambda n, T: prefix(n, T).T, "row t is who looks"),
    (prefix_mask, lambda n, T: torch.ones(T, T).bool(), "its own end"),
]
