"""The checks of notebook 04: a right answer, typical wrong ones each with its own hint, and an empty one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmlab.check import transformer
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


EXERCISES = {
    "layer_norm": (
        lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias),
        [
            (lambda x, weight, bias: norm(x), "weight and bias"),
            (altered(dim=0), "norms over the tokens"),
            (lambda x, w, b: x / ((x**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * w + b, "that is RMSNorm"),
            (altered(correction=1), "divides by D, not"),
            (altered(inside=False), "inside the root"),
            (lambda x, weight, bias: x, "keepdim=True"),
        ],
    ),
    "block_parameters": (
        lambda d, f: 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d,
        [
            (lambda d, f: 4 * d * d + 2 * d * f, "the matrices alone"),
            (lambda d, f: 4 * d * d + 2 * d * f + 4 * d, "the biases are missing"),
            (lambda d, f: 4 * d * d + 2 * d * f + 5 * d + f, "the two norms are missing"),
            (lambda d, f: 4 * d * d + 2 * d * f + 7 * d + f, "one before each sublayer"),
            (lambda d, f: 3 * d * d + 2 * d * f + 8 * d + f, "four matrices"),
            (lambda d, f: 12 * d * d, "attention 4"),
        ],
    ),
    "next_token_loss": (
        loss,
        [
            (lambda logits, tokens: loss(logits, tokens, shift=0), "has just read"),
            (lambda logits, tokens: loss(logits, tokens, dim=0), "not over time"),
            (lambda logits, tokens: loss(logits, tokens) * (len(tokens) - 1), "not their sum"),
            (lambda logits, tokens: loss(logits, tokens) * (1 - 1 / len(tokens)), "T - 1 that follow"),
            (lambda logits, tokens: -loss(logits, tokens), "the sign"),
            (lambda logits, tokens: logits.mean(), "log_softmax over V"),
        ],
    ),
    "decoder_inputs": (
        shifted_right,
        [
            (lambda targets, start: targets, "its own answer"),
            (lambda targets, start: targets.roll(1, dims=1), "rolled around"),
            (lambda targets, start: torch.cat((targets[:, 1:], column(targets, start)), 1), "the other way round"),
            (lambda targets, start: torch.cat((column(targets, start), targets), 1), "one too long"),
            (lambda targets, start: targets * 0, "a column of"),
        ],
    ),
}
WRONG = [(name, wrong, hint) for name, (_, wrongs) in EXERCISES.items() for wrong, hint in wrongs]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_is_right(name):
    result = getattr(transformer, name)(EXERCISES[name][0])
    assert result.right and str(result).startswith(f"{name}: right. Tried with "), result


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG, ids=[f"{name}-{hint}" for name, _, hint in WRONG])
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(name, answer, hint):
    result = getattr(transformer, name)(answer)
    assert not result and hint in str(result).split("  hint ")[1], result


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_met_kindly(name):
    assert "nothing to check yet" in str(getattr(transformer, name)(lambda *args: ...))


def test_the_parameters_are_those_the_config_counts():
    assert transformer.block_parameters(lambda d, f: Config(9, d, 1, 1, 9, d_ff=f).n_param_block)
