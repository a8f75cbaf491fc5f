"""Budgets of a step: right answers, and wrong ones with their hints."""

from __future__ import annotations

import torch

from llmlab.check.budgets import (
    best_group,
    largest_microbatch,
    loss_scales,
    product_seconds,
    step_flops,
    training_state_bytes,
)
from llmlab.optim import LossScaler


def flops(n_layer, d_model, vocab_size, seq, tokens, passes=3, core=4, head=2, weights=24):
    layer = weights * d_model**2 + core * seq * d_model
    return passes * tokens * (n_layer * layer + head * vocab_size * d_model)


def states(n_param, optimizer, mixed, gradient=None, copy=4, moment=4):
    kept = {"sgd": 0, "momentum": 1, "adam": 2}[optimizer] * moment
    if not mixed:
        return n_param * (4 + (4 if gradient is None else gradient) + kept)
    return n_param * (2 + (2 if gradient is None else gradient) + copy + kept)


def halves(n_param, optimizer, mixed):
    return states(n_param, optimizer, mixed, copy=2, moment=2 if mixed else 4)


def one_moment(n_param, optimizer, mixed):
    return states(n_param, "momentum" if optimizer == "adam" else optimizer, mixed)


def roofline(m, k, n, w, peak, bandwidth, longer=max, flops=2, moved=lambda m, k, n: m * k + k * n + m * n):
    return longer(flops * m * k * n / peak, w * moved(m, k, n) / bandwidth)


def fitting(memory, states, per_sequence, batch):
    most = (memory - states) // per_sequence
    return max((m for m in range(1, batch + 1) if batch % m == 0 and m <= most), default=0)


def group(n_layer, input_bytes, layer_bytes):
    divisors = [k for k in range(1, n_layer + 1) if n_layer % k == 0]
    return min(divisors, key=lambda k: n_layer / k * input_bytes + k * layer_bytes)


def root(n_layer, input_bytes, layer_bytes):
    return min((k for k in range(1, n_layer + 1) if n_layer % k == 0), key=lambda k: abs(k - n_layer**0.5))


def by_the_library(scale, interval, finite):
    scaler, scales = LossScaler(init_scale=scale, growth_interval=interval), []
    step = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    for good in finite:
        step.param_groups[0]["params"][0].grad = torch.ones(1)
        scaler.step(step, finite=torch.tensor(good))
        scales.append(scaler.value)
    return scales


def never_down(scale, interval, finite):
    return by_the_library(scale, interval, [True] * len(finite))


def row_goes_on(scale, interval, finite):
    found, row = [], 0
    for good in finite:
        row += good
        scale = scale / 2 if not good else 2 * scale if row == interval else scale
        row = 0 if row == interval else row
        found.append(scale)
    return found


RIGHT = [
    (loss_scales, by_the_library),
    (step_flops, flops),
    (training_state_bytes, states),
    (product_seconds, roofline),
    (largest_microbatch, fitting),
    (best_group, group),
]
WRONG = [
    (loss_scales, row_goes_on, "breaks the row"),
    (loss_scales, lambda scale, interval, finite: by_the_library(scale, 1, finite), "not at every finite step"),
    (loss_scales, lambda scale, interval, finite: by_the_library(scale, interval + 1, finite), "one step late"),
    (loss_scales, never_down, "count the finite steps in a row"),
    (step_flops, lambda *a: flops(*a, passes=1), "forward alone"),
    (step_flops, lambda *a: flops(*a, passes=2), "backward is twice forward"),
    (step_flops, lambda *a: flops(*a, core=0), "attention is missing"),
    (step_flops, lambda *a: flops(*a, head=0), "output layer is missing"),
    (step_flops, lambda *a: flops(*a) / 2, "two FLOPs"),
    (step_flops, lambda *a: flops(*a[:4], tokens=1), "one token's"),
    (training_state_bytes, lambda *a: states(*a, copy=0), "keeps a copy of the weights"),
    (training_state_bytes, halves, "stay in fp32"),
    (training_state_bytes, one_moment, "two moments"),
    (training_state_bytes, lambda *a: states(*a, gradient=0), "gradients are missing"),
    (training_state_bytes, lambda *a: states(*a, gradient=4), "the gradients have 16 bits"),
    (product_seconds, lambda *a: roofline(*a, longer=lambda *s: sum(s)), "not their sum"),
    (product_seconds, lambda *a: roofline(*a, longer=lambda computing, moving: computing), "computing alone"),
    (product_seconds, lambda *a: roofline(*a, longer=lambda computing, moving: moving), "moving alone"),
    (product_seconds, lambda *a: roofline(*a, longer=min), "not the shorter"),
    (product_seconds, lambda *a: roofline(*a, flops=1), "two FLOPs"),
    (product_seconds, lambda m, k, n, w, *a: roofline(m, k, n, 1, *a), "takes w bytes"),
    (product_seconds, lambda *a: roofline(*a, moved=lambda m, k, n: m * k + k * n), "has to be written"),
    (largest_microbatch, lambda memory, states, each, batch: min((memory - states) // each, batch), "divide the batch"),
    (largest_microbatch, lambda memory, states, each, batch: (memory - states) // each, "more than the batch has"),
    (
        largest_microbatch,
        lambda memory, states, each, batch: fitting(memory, 0, each, batch),
        "the states are in memory",
    ),
    (largest_microbatch, lambda *a: a[3] // fitting(*a) if fitting(*a) else 0, "how many microbatches"),
    (largest_microbatch, lambda *a: max(1, fitting(*a)), "not even one sequence"),
    (best_group, lambda *a: a[0] // group(*a), "the number of groups"),
    (best_group, root, "for inputs as large as layers"),
    (best_group, lambda *a: 1, "a group for each layer"),
    (best_group, lambda *a: a[0], "one group of all"),
]
