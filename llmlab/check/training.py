"""Exercises of notebook 05: the largest rate, Adam's step, a schedule, clipping, decay, Nesterov, a valley."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.differences import numbers, show
from llmlab.check.examine import Case, Result, examine
from llmlab.check.values import Verdict, examine_value

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
LOW = 0.001  # the loss that an optimizer has to reach in the bent valley


def largest_rate(answer: Callable[..., Any]) -> Result:
    """`answer(curvatures)`: the learning rate at which gradient descent on Σ c x² / 2 just does not settle any more."""
    hint = "a step multiplies x by 1 - lr c: for every curvature c that must stay above -1."
    return examine("largest_rate", answer, _rates(answer), hint)


def _rates(answer: Any) -> Iterator[Case]:
    for curvatures in ([1.0, 100.0], [4.0], [0.5, 8.0, 2.0, 2.0]):
        top, low, mean = max(curvatures), min(curvatures), sum(curvatures) / len(curvatures)
        mistakes = [
            (1 / top, "at 1 / c the steepest direction is done in one step; it settles up to twice that."),
            (2 / low, "the flattest direction would still settle; the steepest is the first to leave."),
            (2 / mean, "the mean curvature: the steepest direction is the first to leave."),
            (2 / sum(curvatures), "the sum of curvatures: each direction is on its own."),
        ]
        yield Case(f"curvatures {', '.join(map(str, curvatures))}", partial(answer, curvatures), 2 / top, mistakes)


def adam_step(answer: Callable[..., Any]) -> Result:
    """`answer(p, g, m, v, t, lr)`: (p, m, v) after step t = 1, 2 ...; β₁ 0.9, β₂ 0.999, ε 1e-8."""
    hint = "m, then v (with g²), then both corrected by 1 - βᵗ, then p - lr m̂ / (√v̂ + ε)."
    return examine("adam_step", answer, _adam(answer), hint)


def _adam(answer: Any) -> Iterator[Case]:
    p = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for t, scale in ((1, 1.0), (2, 1e-6), (50, 0.1)):
        g = scale * torch.tensor([2.0, -0.3, 1.0], dtype=torch.float64)
        m, v = (g * 0.4, g * g * 0.02) if t > 1 else (torch.zeros_like(p), torch.zeros_like(p))
        step = partial(_adam_step, p, g, m, v, t, 0.1)
        mistakes = [
            (step(corrected=False), "m and v begin at 0: divide them by 1 - β₁ᵗ and 1 - β₂ᵗ before use."),
            (step(inside=True), "ε inside the root: it stands outside, √v̂ + ε."),
            (step(keep=True), "p is right; m and v are handed on as they are, not corrected."),
            (step(square=False), "v averages the squares g², not g."),
        ]
        run = partial(answer, p.clone(), g.clone(), m.clone(), v.clone(), t, 0.1)
        yield Case(f"step {t}, gradients of about {scale:g}", run, step(), mistakes)


def _adam_step(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float,
    corrected: bool = True, inside: bool = False, keep: bool = False, square: bool = True,
) -> list[Tensor]:  # fmt: skip
    """Give p, m, v after one step, or what a mistake makes of them. keep: hand on the corrected m and v."""
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * (g * g if square else g.abs())
    m_hat, v_hat = (m / (1 - BETA1**t), v / (1 - BETA2**t)) if corrected else (m, v)
    root = (v_hat + EPS).sqrt() if inside else v_hat.sqrt() + EPS
    return [p - lr * m_hat / root, m_hat if keep else m, v_hat if keep else v]


def warm_up_cosine(answer: Callable[..., Any]) -> Result:
    """`answer(step, warm_up, steps)`: what the rate is multiplied by at step 0, 1 ... steps.

    In `warm_up` equal parts up to 1, the first at step 0; then down half a cosine, to 0 at `steps`.
    """
    hint = "(step + 1) / warm_up at first; then (1 + cos(π x)) / 2, x = (step - warm_up) / (steps - warm_up)."
    return examine("warm_up_cosine", answer, _schedules(answer), hint)


def _schedules(answer: Any) -> Iterator[Case]:
    for step, warm_up, steps in ((0, 10, 100), (9, 10, 100), (10, 10, 100), (40, 10, 100), (100, 10, 100)):
        rising, share = step < warm_up, (step - warm_up) / (steps - warm_up)
        right = (step + 1) / warm_up if rising else (1 + math.cos(math.pi * share)) / 2
        late = step / warm_up if rising else right
        unshifted = right if rising else (1 + math.cos(math.pi * step / steps)) / 2
        mistakes = [
            (late, "step 0 would be wasted on a rate of 0: begin with 1 / warm_up."),
            (unshifted, "the cosine begins when the warm-up is over, at 1."),
            (right if rising else math.cos(math.pi * share), "that falls to -1: half of 1 + cos."),
            (right if rising else 1 - share, "that is a straight line."),
        ]
        yield Case(f"step {step} of {steps}", partial(answer, step, warm_up, steps), right, mistakes)


def clipped(answer: Callable[..., Any]) -> Result:
    """`answer(gradients, max_norm)`: the list of gradients, scaled so that their norm as one vector is at most that."""
    hint = "norm = √(sum of the squares of all entries of all gradients); scale all by min(1, max_norm / norm)."
    return examine("clipped", answer, _clips(answer), hint)


def _clips(answer: Any) -> Iterator[Case]:
    for max_norm in (1.0, 6.0, 20.0):
        gradients = [torch.tensor(x, dtype=torch.float64) for x in ([3.0, -4.0], [12.0])]
        whole = 13.0
        mistakes = [
            ([g * min(1, max_norm / g.norm().item()) for g in gradients], "each on its own: that turns the direction."),
            ([g.clamp(-max_norm, max_norm) for g in gradients], "each entry cut off: that turns the direction."),
            ([g * max_norm / whole for g in gradients], "a gradient that is short enough stays as it is."),
            ([g * min(1, max_norm / whole**2) for g in gradients], "the norm is the root of the sum of squares."),
        ]
        expected = [g * min(1, max_norm / whole) for g in gradients]
        run = partial(answer, [g.clone() for g in gradients], max_norm)
        yield Case(f"a gradient of norm {whole:g}, at most {max_norm:g}", run, expected, mistakes)


def decayed_step(answer: Callable[..., Any]) -> Result:
    """`answer(p, m_hat, v_hat, lr, decay)`: a weight after AdamW's step, from the corrected averages; ε is 1e-8."""
    hint = "p - lr * m_hat / (√v_hat + 1e-8) - lr * decay * p."
    return examine("decayed_step", answer, _decays(answer), hint)


def _decays(answer: Any) -> Iterator[Case]:
    for p, m, v, lr, decay in ((1.0, 0.5, 4.0, 0.1, 0.1), (-2.0, 0.01, 1e-4, 0.01, 0.5), (3.0, 0.0, 1.0, 0.1, 0.2)):
        step = lr * m / (math.sqrt(v) + 1e-8)
        mistakes = [
            (p - lr * (m + decay * p) / (math.sqrt(v) + 1e-8), "the decay was divided by √v: that is Adam, not AdamW."),
            (p - step - decay * p, "the decay, too, is times the learning rate."),
            (p - step, "there is no decay yet."),
            (p - step + lr * decay * p, "the weight grows: decay pulls it towards 0."),
        ]
        what = f"p = {p:g}, m = {m:g}, v = {v:g}, lr = {lr:g}, decay = {decay:g}"
        yield Case(what, partial(answer, p, m, v, lr, decay), p - step - lr * decay * p, mistakes)


def bent_valley(answer: Any) -> Result:
    """`answer`: (optimizer, rate), with which the explorer's bent valley is below 0.001 after 100 steps, no noise."""
    from llmlab.widgets.optimizers import OPTIMIZERS  # here, for who checks a function waits for no widgets

    wanted = (
        f"(optimizer, rate), such as ('Adam', 0.1), with an optimizer of {', '.join(OPTIMIZERS)} and a rate above 0"
    )
    return examine_value("bent_valley", answer, wanted, _valley)


def _valley(answer: Any) -> Verdict | None:
    from llmlab.widgets.optimizers import OPTIMIZERS, SURFACES, descend

    if not isinstance(answer, (list, tuple)) or len(answer) != 2 or answer[0] not in list(OPTIMIZERS):
        return None
    rate = numbers(answer[1])
    if rate is None or rate.ndim or not 0 < rate < math.inf:
        return None
    path = torch.tensor(descend("bent valley", answer[0], float(rate)))
    reached = SURFACES["bent valley"].height(*path.T).tolist()
    if reached[-1] < LOW:
        return Verdict(True, f"{reached[-1]:.5f} after {len(reached) - 1} steps.")
    rows = {"tried": show(answer), "expected": f"below {LOW}", "got": f"{reached[-1]:.4g}"}
    if not reached[-1] < 2 * reached[0]:
        return Verdict(False, "it has left the valley.", "take a smaller rate: a third of this one.", rows)
    risen = sum(b > a for a, b in itertools.pairwise(reached))
    look = f"it rises in {risen} of its {len(reached) - 1} steps, and its lowest is {min(reached):.4g}."
    cure = "a smaller rate, or less memory." if risen > len(reached) // 4 else "a larger rate, or one that remembers."
    return Verdict(False, look, cure, rows)


def nesterov_step(answer: Callable[..., Any]) -> Result:
    """`answer(p, g, b, lr, mu)`: (p, b) after one step of Nesterov's momentum, in Sutskever's form."""
    hint = "b first: mu b + g. Then p moves against g + mu b, with the b that has just been made."
    return examine("nesterov_step", answer, _nesterov(answer), hint)


def _nesterov(answer: Any) -> Iterator[Case]:
    p, b = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, -2.0, 0.5], [0.3, 0.0, -4.0]))
    for mu, scale in ((0.9, 1.0), (0.5, 0.01), (0.0, 2.0)):
        g, lr = scale * torch.tensor([2.0, -0.3, 1.0], dtype=torch.float64), 0.1
        new = mu * b + g
        mistakes = [
            ([p - lr * new, new], "g + mu b with the old b is plain momentum: Nesterov's step takes the new b."),
            ([p - lr * (g + mu * new), b], "p is right; b has to be handed on as it is now."),
            ([p - lr * (g + mu * new), g + mu * new], "p is right; b is handed on without the look ahead."),
            ([p + lr * (g + mu * new), new], "uphill: the step goes against the gradient."),
        ]
        run = partial(answer, p.clone(), g.clone(), b.clone(), lr, mu)
        yield Case(f"momentum {mu:g}, gradients of about {scale:g}", run, [p - lr * (g + mu * new), new], mistakes)
