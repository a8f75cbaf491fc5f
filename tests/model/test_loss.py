"""The loss against its formula, and the targets of the three ways to learn from text."""

import math

import pytest
import torch

from llmlab.model import IGNORE, Config, Transformer, cross_entropy, masked_tokens, next_token, shifted_right


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
