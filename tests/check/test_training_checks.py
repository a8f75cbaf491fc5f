"""The checks of notebook 05: a right answer, typical wrong ones each with its own hint, and an empty one."""

from __future__ import annotations

import math

import pytest
import torch

from llmlab.check import training


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


EXERCISES = {
    "largest_rate": (
        lambda curvatures: 2 / max(curvatures),
        [
            (lambda c: 1 / max(c), "settles up to twice that"),
            (lambda c: 2 / min(c), "the flattest direction would still settle"),
            (lambda c: 2 * len(c) / sum(c), "the mean curvature"),
            (lambda c: 2 / sum(c), "on its own"),
            (lambda c: 0.1, "must stay above -1"),
        ],
    ),
    "adam_step": (
        adam,
        [
            (altered(corrected=False), "begin at 0"),
            (altered(inside=True), "it stands outside"),
            (altered(keep=True), "handed on as they are"),
            (altered(square=1), "the squares"),
            (lambda p, g, m, v, t, lr: (p - lr * g, m, v), "then both corrected"),
        ],
    ),
    "warm_up_cosine": (
        half_cosine,
        [
            (lambda s, w, n: s / w if s < w else half_cosine(s, w, n), "wasted on a rate of 0"),
            (rising_or(lambda s, w, n: (1 + math.cos(math.pi * s / n)) / 2), "begins when the warm-up is over"),
            (rising_or(lambda *args: math.cos(math.pi * share(*args))), "falls to -1"),
            (rising_or(lambda *args: 1 - share(*args)), "straight line"),
            (lambda s, w, n: 1.0, "at first; then"),
        ],
    ),
    "clipped": (
        clip,
        [
            (lambda gs, c: [g * min(1, c / g.norm()) for g in gs], "each on its own"),
            (lambda gs, c: [g.clamp(-c, c) for g in gs], "each entry cut off"),
            (lambda gs, c: [g * c / 13 for g in gs], "stays as it is"),
            (lambda gs, c: [g * min(1, c / sum((h**2).sum() for h in gs)) for g in gs], "the root"),
            (lambda gs, c: gs, "scale all by min"),
        ],
    ),
}
WRONG = [(name, wrong, hint) for name, (_, wrongs) in EXERCISES.items() for wrong, hint in wrongs]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_is_right(name):
    result = getattr(training, name)(EXERCISES[name][0])
    assert result.right and str(result).startswith(f"{name}: right. Tried with "), result


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG, ids=[f"{name}-{hint}" for name, _, hint in WRONG])
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(name, answer, hint):
    result = getattr(training, name)(answer)
    assert not result and hint in str(result).split("  hint ")[1], result


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_met_kindly(name):
    assert "nothing to check yet" in str(getattr(training, name)(lambda *args: ...))


def test_the_library_gives_the_right_answers_too():
    from llmlab import optim

    def with_library(gradients, max_norm):
        params = [torch.zeros_like(g) for g in gradients]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optim.clip_grad_norm(params, max_norm)
        return [p.grad for p in params]

    assert training.clipped(with_library)
    assert training.warm_up_cosine(lambda s, w, n: optim.warm_up(w, optim.cosine(n - w))(s))
