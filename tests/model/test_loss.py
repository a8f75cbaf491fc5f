"""The loss against its formula, and the targets of the three ways to learn from text."""

import math

import pytest
import torch

from llmlab.evaluate import mean_loss
from llmlab.model import (
    IGNORE,
    LSTM,
    Config,
    EncoderDecoder,
    Transformer,
    cross_entropy,
    masked_tokens,
    next_token,
    shifted_right,
)
from llmlab.model.embedding import as_index
from llmlab.model.loss import as_targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula(agree, smoothing):
    logits, targets = torch.randn(3, 4, 7, dtype=torch.float64), torch.randint(7, (3, 4))
    targets[0, 1] = targets[2] = IGNORE
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    each = torch.zeros(3, 4, dtype=torch.float64)
    for b in range(3):
        for t in range(4):
            if targets[b, t] != IGNORE:
                wanted = torch.full((7,), smoothing / 7, dtype=torch.float64)
                wanted[targets[b, t]] += 1 - smoothing
                each[b, t] = -(wanted * log_p[b, t]).sum()
    for reduction, expected in (("none", each), ("sum", each.sum()), ("mean", each.sum() / 7)):
        agree([cross_entropy(logits, targets, smoothing, reduction)], [expected])


def test_a_batch_without_targets_sums_to_zero_and_has_no_mean():
    logits, targets = torch.randn(2, 5, requires_grad=True), torch.full((2,), IGNORE)
    total = cross_entropy(logits, targets, reduction="sum")
    total.backward()
    assert total.item() == 0 and (logits.grad == 0).all()
    assert math.isnan(cross_entropy(logits, targets).item())


EVERY = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", EVERY)
def test_targets_and_tokens_may_be_integers_of_any_dtype(dtype):
    model, tokens, targets = Transformer(Config(11, 8, 1, 2, 6)), torch.randint(11, (2, 5)), torch.randint(11, (2, 5))
    if dtype.is_signed:
        targets[0, 1] = IGNORE
    loss = model.loss(tokens.to(dtype), targets.to(dtype))
    assert torch.equal(loss, model.loss(tokens, targets))
    assert torch.equal(
        cross_entropy(model(tokens), targets.to(dtype), reduction="none"),
        cross_entropy(model(tokens), targets, reduction="none"),
    )


MODELS = {
    "decoder": lambda targets: Transformer(Config(11, 8, 1, 2, 6)).loss(torch.zeros(2, 5, dtype=torch.long), targets),
    "experts": lambda targets: Transformer(Config(11, 8, 1, 2, 6, n_expert=2)).loss(
        torch.zeros(2, 5, dtype=torch.long), targets, reduction="sum"
    ),
    "smoothed": lambda targets: Transformer(Config(11, 8, 1, 2, 6, label_smoothing=0.1)).loss(
        torch.zeros(2, 5, dtype=torch.long), targets
    ),
    "encoder and decoder": lambda targets: EncoderDecoder(Config(11, 8, 1, 2, 6)).loss(
        torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long), targets
    ),
    "lstm": lambda targets: LSTM(Config(11, 8, 1, 1, 6)).loss(torch.zeros(2, 5, dtype=torch.long), targets),
    "evaluation": lambda targets: mean_loss(
        Transformer(Config(11, 8, 1, 2, 6)), [(torch.zeros(2, 5, dtype=torch.long), targets)]
    ),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wrong", [-1, 11, -101, 2**40])
def test_a_target_outside_the_vocabulary_is_refused_and_the_ignore_index_named(model, wrong):
    targets = torch.randint(11, (2, 5))
    targets[0, 0], targets[1, 2] = IGNORE, wrong
    with pytest.raises(ValueError, match=f"targets wants numbers from 0 to 10, got {wrong};.* the ignore_index, -100"):
        MODELS[model](targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_targets_of_another_shape_or_that_are_no_integers_are_refused(dtype):
    with pytest.raises(ValueError, match=r"targets want the shape of the tokens, \(2, 5\), got \(2, 4\)"):
        as_targets(torch.zeros(2, 4, dtype=torch.long), torch.randn(2, 5, 11))
    with pytest.raises(ValueError, match=f"targets wants integers, got {dtype}"):
        as_targets(torch.zeros(2, 5, dtype=dtype), torch.randn(2, 5, 11))
    with pytest.raises(ValueError, match=f"token wants integers, got {dtype}"):
        as_index("token", torch.zeros(2, 5, dtype=dtype))


def test_next_token_moves_by_one():
    inputs, targets = next_token(torch.tensor([[1, 2, 3, 4]]))
    assert inputs.tolist() == [[1, 2, 3]] and targets.tolist() == [[2, 3, 4]]


def test_masked_tokens_are_chosen_hidden_and_asked_for_in_the_papers_shares():
    tokens = torch.randint(10, 1000, (100, 1000))
    inputs, targets = masked_tokens(tokens, mask_token=3, vocab_size=1000, generator=torch.Generator().manual_seed(0))
    chosen = targets != IGNORE
    assert torch.equal(targets[chosen], tokens[chosen])  # asked for: what stood there
    assert torch.equal(inputs[~chosen], tokens[~chosen])  # the rest is untouched
    share = chosen.float().mean().item()
    masked = (inputs[chosen] == 3).float().mean().item()
    kept = (inputs[chosen] == tokens[chosen]).float().mean().item()
    # 100,000 draws: a share p is off by sqrt(p (1 - p) / n) or so, four times which is 0.005; of 15,000 chosen, 0.013
    assert share == pytest.approx(0.15, abs=0.005)
    assert masked == pytest.approx(0.8, abs=0.014) and kept == pytest.approx(0.1, abs=0.011)


def test_a_decoders_inputs_are_its_targets_one_later():
    targets = torch.tensor([[5, 6, 7], [8, IGNORE, IGNORE]])
    assert shifted_right(targets, start_token=1).tolist() == [[1, 5, 6], [1, 8, 1]]
    assert targets.tolist() == [[5, 6, 7], [8, IGNORE, IGNORE]]


@pytest.mark.parametrize("experts", [0, 3])
def test_without_a_target_the_loss_is_nan_and_every_gradient_0(experts):
    model = Transformer(Config(11, 8, 1, 2, 8, n_expert=experts, label_smoothing=0.1))
    tokens = torch.zeros(2, 5, dtype=torch.long)
    loss = model.loss(tokens, torch.full((2, 5), IGNORE))
    loss.backward()
    assert loss.isnan() and all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert model.loss(tokens, torch.full((2, 5), IGNORE), reduction="sum") == 0
