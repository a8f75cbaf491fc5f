"""The checks of notebook 23: a right answer, typical wrong ones each with its own hint, and an empty one."""

from __future__ import annotations

import pytest
import torch

from llmlab.check import tensor


def own_summand(x, a, b):
    return (x @ a).relu() @ b


def loss(world, z, targets, top=True, everywhere=True, base=1.0, mean=True):
    largest = world.all_reduce(z.amax(1), "max") if top else torch.zeros(len(z), dtype=z.dtype)
    total = (z - largest[:, None]).exp().sum(1)
    total = world.all_reduce(total) if everywhere else total
    index = targets - world.rank * z.shape[1]
    here = (index >= 0) & (index < z.shape[1])
    picked = z.gather(1, index.clamp(0, z.shape[1] - 1)[:, None])[:, 0].where(here, 0.0)
    losses = (total.log() + largest - world.all_reduce(picked)) / base
    return losses.mean() if mean else losses.sum()


def altered(**how):
    return lambda *args: loss(*args, **how)


EXERCISES = {
    "tensor_mlp": (
        lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r)) + b,
        [
            (lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r) + b), "after the all_reduce"),
            (lambda world, x, a, r, b: own_summand(x, a, r) + b, "nothing was communicated"),
            (lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r), "avg") + b, "are added up"),
            (lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r)), "b is missing"),
            (lambda world, x, a, r, b: world.all_reduce(x @ a @ r) + b, "relu is missing"),
            (lambda world, x, a, r, b: x, "is this rank's summand"),
        ],
    ),
    "vocabulary_loss": (
        loss,
        [
            (altered(top=False), "exp overflows"),
            (altered(everywhere=False), "this rank's part of the vocabulary only"),
            (altered(mean=False), "asked is the mean"),
            (lambda *args: -loss(*args), "the sign"),
            (altered(base=torch.log(torch.tensor(2.0))), "bits"),
            (lambda world, z, targets: z.sum(), "from the one rank that has it"),
        ],
    ),
    "gain_gradient": (
        lambda world, normed, grad: world.all_reduce((normed * grad).sum(0)),
        [
            (lambda world, normed, grad: (normed * grad).sum(0), "this rank's tokens only"),
            (lambda world, normed, grad: world.all_reduce((normed * grad).sum(0), "avg"), "an average"),
            (lambda world, normed, grad: world.all_reduce(grad.sum(0)), "a bias's gradient"),
            (lambda world, normed, grad: world.all_reduce((normed * grad).sum(0)) / 12, "divided by the tokens"),
            (lambda world, normed, grad: normed, "all_reduce its sum"),
        ],
    ),
    "tensor_block_bytes": (
        lambda n_layer, tokens, d_model, w: 4 * n_layer * tokens * d_model * w,
        [
            (lambda n_layer, tokens, d_model, w: 2 * n_layer * tokens * d_model * w, "half"),
            (lambda n_layer, tokens, d_model, w: n_layer * tokens * d_model * w, "a quarter"),
            (lambda n_layer, tokens, d_model, w: 4 * n_layer * tokens * d_model, "these are numbers"),
            (lambda n_layer, tokens, d_model, w: 8 * n_layer * tokens * d_model * w, "what a ring sends"),
            (lambda n_layer, tokens, d_model, w: 4 * tokens * d_model * w, "of one block"),
            (lambda n_layer, tokens, d_model, w: 0, "two regions a block"),
        ],
    ),
}
WRONG = [(name, answer, hint) for name, (_, wrong) in EXERCISES.items() for answer, hint in wrong]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_is_right(name):
    result = getattr(tensor, name)(EXERCISES[name][0])
    assert result, result


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG, ids=[f"{name}: {hint}" for name, _, hint in WRONG])
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(name, answer, hint):
    result = getattr(tensor, name)(answer)
    assert not result
    assert hint in str(result).split("  hint ")[1], result


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_told_so(name):
    result = getattr(tensor, name)(lambda *args: ...)
    assert not result and "nothing to check yet" in str(result)
