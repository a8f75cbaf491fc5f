"""Weights left out: which, how many, and that they stay out."""

from __future__ import annotations

import copy

import pytest
import torch

from llmlab import generate, optim
from llmlab.compressing import Masks, magnitude_masks, two_of_four, without
from llmlab.compressing.pruning import group_strength, matrices
from llmlab.model import Config, Transformer

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def small(**changes):
    sizes = {"vocab_size": 40, "d_model": 32, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "max_seq": 16}
    return Transformer(Config(**{**sizes, **changes}))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_smallest_weights_go(share):
    model = small()
    sizes = torch.cat([w.detach().abs().flatten() for w in matrices(model).values()])
    masks = magnitude_masks(model, share).apply()
    gone = torch.cat([(w == 0).flatten() for w in matrices(model).values()])
    assert masks.share == pytest.approx(share, abs=1 / len(sizes))
    assert not gone.any() or sizes[gone].max() <= sizes[~gone].min()
    assert gone.sum() == round(share * len(sizes))


def test_two_of_every_four_stay_and_they_are_the_largest():
    model = small()
    before = {name: w.detach().clone() for name, w in matrices(model).items()}
    two_of_four(model).apply()
    for name, w in matrices(model).items():
        fours, whole = w.detach().unflatten(1, (-1, 4)), before[name].unflatten(1, (-1, 4))
        assert ((fours != 0).sum(-1) == 2).all()
        assert torch.equal(fours.abs().sum(-1), whole.abs().topk(2).values.sum(-1))


def test_ties_are_broken_so_that_the_share_is_met():
    model = small()
    for w in matrices(model).values():
        w.data.fill_(0.5)
    assert magnitude_masks(model, 0.5).share == 0.5
    assert two_of_four(model).share == 0.5


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.AdamW(p, lr=0.01)])
def test_masks_that_follow_the_optimizer_hold_and_others_do_not(make):
    def zeros_after_training(follow):
        model = small()
        masks, optimizer = magnitude_masks(model, 0.5), make(model.parameters())
        masks.follow(optimizer) if follow else masks.apply()
        for _ in range(3):
            model.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad()
        pruned = [w[~masks.keep[name]] for name, w in matrices(model).items()]
        return torch.cat([(w == 0).flatten() for w in pruned]).float().mean()

    assert zeros_after_training(follow=True) == 1
    assert zeros_after_training(follow=False) < 0.2


@pytest.mark.parametrize("changes", [{}, {"mlp": "swiglu", "bias": False, "position": "rotary"}, {"n_kv_head": 4}])
def test_a_model_without_heads_and_neurons_is_the_one_that_has_them_at_zero(changes):
    model = small(**changes)
    with torch.no_grad():
        for w in model.parameters():  # biases and norms at their first values would hide a wrong cut
            w.add_(torch.randn(w.shape, generator=torch.Generator().manual_seed(w.numel())) * 0.05)
    smaller, zeroed = without(model, groups=1, neurons=20), copy.deepcopy(model)
    per_group = model.config.n_head // model.config.n_kv_head
    for block in zeroed.blocks:
        weakest = int(group_strength(block.attention, per_group).argmin())
        part = slice(weakest * per_group * 8, (weakest + 1) * per_group * 8)
        block.attention.output.weight.data[:, part] = 0
        norms = block.mlp.up.weight.norm(dim=1) * block.mlp.down.weight.norm(dim=0)
        block.mlp.down.weight.data[:, norms.argsort()[:20]] = 0
    assert torch.allclose(smaller(TOKENS), zeroed(TOKENS), atol=1e-5)
    assert smaller.config.n_param == sum(w.numel() for w in smaller.parameters()) < model.config.n_param
    assert len(generate(smaller, [1, 2], 5)) == 7


def test_a_model_without_nothing_is_the_same():
    model = small()
    assert torch.equal(without(model)(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: magnitude_masks(small(), 1.0), "share"),
        (lambda: without(small(), groups=2), "from 0 to 1; got 2"),
        (lambda: without(small(n_expert=2)), "dense MLPs"),
        (lambda: Masks(small(), {"norm.weight": torch.ones(3, dtype=torch.bool)}), "the shape of norm.weight"),
        (lambda: two_of_four(small(d_ff=30)), "multiple of 4"),
    ],
)
def test_what_cannot_be_pruned_is_refused(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)
