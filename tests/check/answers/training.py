"""Optimizers and learning rates: right answers, and wrong ones with their hints."""

from __future__ import annotations

import math

import torch

from llmlab import optim
from llmlab.check.training import adam_step, clipped, decayed_step, largest_rate, nesterov_step, warm_up_cosine


def adam(p, g, m, v, t, lr, square=2, corrected=True, inside=False, keep=False):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.abs() ** square
    m_hat, v_hat = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if corrected else (m, v)
    root = (v_hat + 1e-8) ** 0.5 if inside else v_hat**0.5 + 1e-8
    return (p - lr * m_hat / root, m_hat, v_hat) if keep else (p - lr * m_hat / root, m, v)


def altered(**how):
    return lambda *args: adam(*args, **how)


def rising_or(falling):
    def factor(step, warm_up, steps):
        return (step + 1) / warm_up if step < warm_up else falling(step, warm_up, steps)

    return factor


def share(step, warm_up, steps):
    return (step - warm_up) / (steps - warm_up)


half_cosine = rising_or(lambda *args: (1 + math.cos(math.pi * share(*args))) / 2)


def clip(gradients, c):
    norm = sum((g**2).sum() for g in gradients) ** 0.5
    return [g * min(1, c / norm) for g in gradients]


def nesterov(p, g, b, lr, mu):
    new = mu * b + g
    return p - lr * (g + mu * new), new


def nesterov_with_torch(p, g, b, lr, mu):
    place = torch.nn.Parameter(p)
    optimizer = torch.optim.SGD([place], lr=lr, momentum=mu, nesterov=mu > 0)
    if mu:
        optimizer.state[place]["momentum_buffer"] = b
    place.grad = g.clone()
    optimizer.step()
    return place.detach(), b if mu else g


def clip_with_library(gradients, c):
    params = [torch.zeros_like(g) for g in gradients]
    for p, g in zip(params, gradients, strict=True):
        p.grad = g
    optim.clip_grad_norm(params, c)
    return [p.grad for p in params]


def decoupled(p, m, v, lr, decay, own=1.0):
    return p * (1 - own * lr * decay) - lr * m / (v**0.5 + 1e-8)


RIGHT = [
    (largest_rate, lambda curvatures: 2 / max(curvatures)),
    (adam_step, adam),
    (warm_up_cosine, half_cosine),
    (clipped, clip),
    (clipped, clip_with_library),
    (warm_up_cosine, lambda s, w, n: optim.warm_up(w, optim.cosine(n - w))(s)),
    (decayed_step, decoupled),
    (nesterov_step, nesterov),
    (nesterov_step, nesterov_with_torch),
]
WRONG = [
    (largest_rate, lambda c: 1 / max(c), "settles up to twice that"),
    (largest_rate, lambda c: 2 / min(c), "the flattest direction would still settle"),
    (largest_rate, lambda c: 2 * len(c) / sum(c), "the mean curvature"),
    (largest_rate, lambda c: 2 / sum(c), "on its own"),
    (largest_rate, lambda c: 0.1, "must stay above -1"),
    (adam_step, altered(corrected=False), "begin at 0"),
    (adam_step, altered(inside=True), "it stands outside"),
    (adam_step, altered(keep=True), "handed on as they are"),
    (adam_step, altered(square=1), "the squares"),
    (adam_step, lambda p, g, m, v, t, lr: (p - lr * g, m, v), "then both corrected"),
    (warm_up_cosine, lambda s, w, n: s / w if s < w else half_cosine(s, w, n), "wasted on a rate of 0"),
    (warm_up_cosine, rising_or(lambda s, w, n: (1 + math.cos(math.pi * s / n)) / 2), "begins when the warm-up is over"),
    (warm_up_cosine, rising_or(lambda *args: math.cos(math.pi * share(*args))), "falls to -1"),
    (warm_up_cosine, rising_or(lambda *args: 1 - share(*args)), "straight line"),
    (warm_up_cosine, lambda s, w, n: 1.0, "at first; then"),
    (clipped, lambda gs, c: [g * min(1, c / g.norm()) for g in gs], "each on its own"),
    (clipped, lambda gs, c: [g.clamp(-c, c) for g in gs], "each entry cut off"),
    (clipped, lambda gs, c: [g * c / 13 for g in gs], "stays as it is"),
    (clipped, lambda gs, c: [g * min(1, c / sum((h**2).sum() for h in gs)) for g in gs], "the root"),
    (clipped, lambda gs, c: gs, "scale all by min"),
    (decayed_step, lambda p, m, v, lr, decay: p - lr * (m + decay * p) / (v**0.5 + 1e-8), "Adam, not AdamW"),
    (decayed_step, lambda p, m, v, lr, decay: decoupled(p, m, v, lr, decay, 1 / lr), "times the learning rate"),
    (decayed_step, lambda *a: decoupled(*a, own=0), "no decay yet"),
    (decayed_step, lambda *a: decoupled(*a, own=-1), "the weight grows"),
    (nesterov_step, lambda p, g, b, lr, mu: (p - lr * (mu * b + g), mu * b + g), "plain momentum"),
    (nesterov_step, lambda p, g, b, lr, mu: (p + lr * (g + mu * (mu * b + g)), mu * b + g), "uphill"),
    (nesterov_step, lambda p, g, b, lr, mu: (nesterov(p, g, b, lr, mu)[0], b), "has to be handed on"),
    (nesterov_step, lambda p, g, b, lr, mu: (p - lr * g, b), "b first: mu b"),
]
