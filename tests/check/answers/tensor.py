"""Tensor parallelism: right answers, and wrong ones with their hints."""

from __future__ import annotations

import torch

from llmlab.check.tensor import gain_gradient, tensor_block_bytes, tensor_mlp, vocabulary_loss, waiting_share


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


def waiting(tokens, flops, nbytes, calls, latency, ranks, peak, bandwidth):
    waits = calls * latency + tokens * nbytes / bandwidth
    return waits / (waits + tokens * flops / ranks / peak)


def beside(*sizes):
    share = waiting(*sizes)
    return share / (1 - share)


def changed(place, of):
    return lambda *sizes: waiting(*sizes[:place], of(*sizes), *sizes[place + 1 :])


def gathered_loss(world, z, targets):
    return torch.nn.functional.cross_entropy(world.all_gather(z.T.contiguous()).T, targets)


RIGHT = [
    (tensor_mlp, lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r)) + b),
    (vocabulary_loss, loss),
    (gain_gradient, lambda world, normed, grad: world.all_reduce((normed * grad).sum(0))),
    (tensor_block_bytes, lambda n_layer, tokens, d_model, w: 4 * n_layer * tokens * d_model * w),
    (waiting_share, waiting),
]
WRONG = [
    (tensor_mlp, lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r) + b), "after the all_reduce"),
    (tensor_mlp, lambda world, x, a, r, b: own_summand(x, a, r) + b, "nothing was communicated"),
    (tensor_mlp, lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r), "avg") + b, "are added up"),
    (tensor_mlp, lambda world, x, a, r, b: world.all_reduce(own_summand(x, a, r)), "b is missing"),
    (tensor_mlp, lambda world, x, a, r, b: world.all_reduce(x @ a @ r) + b, "relu is missing"),
    (tensor_mlp, lambda world, x, a, r, b: x, "is this rank's summand"),
    (vocabulary_loss, altered(top=False), "exp overflows"),
    (vocabulary_loss, altered(everywhere=False), "this rank's part of the vocabulary only"),
    (vocabulary_loss, altered(mean=False), "asked is the mean"),
    (vocabulary_loss, lambda *args: -loss(*args), "the sign"),
    (vocabulary_loss, altered(base=torch.log(torch.tensor(2.0))), "bits"),
    (vocabulary_loss, lambda world, z, targets: z.sum(), "from the one rank that has it"),
    (gain_gradient, lambda world, normed, grad: (normed * grad).sum(0), "this rank's tokens only"),
    (gain_gradient, lambda world, normed, grad: world.all_reduce((normed * grad).sum(0), "avg"), "an average"),
    (gain_gradient, lambda world, normed, grad: world.all_reduce(grad.sum(0)), "a bias's gradient"),
    (gain_gradient, lambda world, normed, grad: world.all_reduce((normed * grad).sum(0)) / 12, "divided by the tokens"),
    (gain_gradient, lambda world, normed, grad: normed, "all_reduce its sum"),
    (tensor_block_bytes, lambda n_layer, tokens, d_model, w: 2 * n_layer * tokens * d_model * w, "half"),
    (tensor_block_bytes, lambda n_layer, tokens, d_model, w: n_layer * tokens * d_model * w, "a quarter"),
    (tensor_block_bytes, lambda n_layer, tokens, d_model, w: 4 * n_layer * tokens * d_model, "these are numbers"),
    (tensor_block_bytes, lambda n_layer, tokens, d_model, w: 8 * n_layer * tokens * d_model * w, "what a ring sends"),
    (tensor_block_bytes, lambda n_layer, tokens, d_model, w: 4 * tokens * d_model * w, "of one block"),
    (tensor_block_bytes, lambda n_layer, tokens, d_model, w: 0, "two regions a block"),
    (waiting_share, beside, "its share of the step"),
    (waiting_share, changed(5, lambda *sizes: 1), "share the work"),
    (waiting_share, changed(4, lambda *sizes: 0), "each call is late"),
    (waiting_share, changed(3, lambda *sizes: sizes[0] * sizes[3]), "not once a token"),
    (waiting_share, changed(3, lambda *sizes: 1), "not the step once"),
    (vocabulary_loss, gathered_loss, "dearer than it need be"),
    (gain_gradient, lambda world, normed, grad: world.all_gather(normed * grad).sum(0), "dearer than it need be"),
]
