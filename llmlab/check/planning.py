"""Exercises of notebook 31: what a training costs, what a reported number means, and which layout to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import mean, median
from typing import Any

from llmlab.check.examine import Case, Result, examine

Rows = Sequence[tuple[int, float, int]]  # GPUs, seconds a step, bytes on a GPU


def training_gpu_hours(answer: Callable[..., Any]) -> Result:
    """`answer(n_param, tokens, peak, mfu)`: GPU-hours of a training. peak: FLOP/s of one device, mfu: a share of it."""
    hint = "6 n_param FLOPs a token; a device does mfu peak of them in a second; an hour has 3,600."
    return examine("training_gpu_hours", answer, _trainings(answer), hint)


def _trainings(answer: Any) -> Iterator[Case]:
    for n, tokens, peak, mfu in ((70e9, 15e12, 989e12, 0.4), (175e9, 300e9, 125e12, 0.213), (8e9, 1e12, 312e12, 0.5)):
        right = 6 * n * tokens / (peak * mfu) / 3600
        mistakes = [
            (right / 3, "2 FLOPs a parameter are the forward pass: backward takes 4 more."),
            (right * 8 / 6, "8 FLOPs a parameter count recomputing, which the MFU does not."),
            (right * 3600, "these are seconds."),
            (right * mfu, "nobody reaches the peak: divide by the MFU."),
            (right * mfu**2, "a lower MFU takes longer: divide by it."),
        ]
        what = f"{n:.3g} parameters, {tokens:.3g} tokens, {peak / 1e12:.0f} TFLOP/s, MFU {mfu:.1%}"
        yield Case(what, partial(answer, n, tokens, peak, mfu), right, mistakes)


def mfu_of_hfu(answer: Callable[..., Any]) -> Result:
    """`answer(hfu, recompute)`: the MFU. recompute: "none", or "full": all layers are computed twice forward."""
    hint = "needed are 1 forward and 2 for backward; count what is done with full recomputing, and take the ratio."
    return examine("mfu_of_hfu", answer, _reports(answer), hint)


def _reports(answer: Any) -> Iterator[Case]:
    for hfu, recompute in ((0.52, "full"), (0.44, "none"), (0.6, "full")):
        right = hfu * (0.75 if recompute == "full" else 1.0)
        mistakes = [
            (hfu, "with full recomputing a fourth part is done that the model does not need."),
            (hfu * (4 / 3 if recompute == "full" else 1), "recomputed FLOPs are no progress: the MFU is lower."),
            (hfu * (2 / 3 if recompute == "full" else 1), "a forward more on top of three parts, not two."),
            (hfu * 0.75, "nothing was computed again where recompute is none."),
            (hfu * (0.5 if recompute == "full" else 1), "only the forward pass is done twice: backward is not."),
        ]
        yield Case(f"HFU {hfu:.0%}, recompute {recompute}", partial(answer, hfu, recompute), right, mistakes)


def best_size(answer: Callable[..., Any]) -> Result:
    """`answer(flops, ratio)`: the parameters of the model that is trained on `ratio` tokens for each of them."""
    hint = "6 N D = flops and D = ratio N: two equations, two unknowns."
    return examine("best_size", answer, _sizes(answer), hint)


def _sizes(answer: Any) -> Iterator[Case]:
    for flops, ratio in ((5.76e23, 20), (1e21, 20), (6.3e24, 214)):
        right = (flops / 6 / ratio) ** 0.5
        mistakes = [
            (right * ratio, "these are the tokens."),
            ((flops / ratio) ** 0.5, "a parameter and a token take 6 FLOPs."),
            ((flops / 2 / ratio) ** 0.5, "6 FLOPs, not 2: there is a backward pass."),
            ((flops / 6) ** 0.5, "so there are as many tokens as parameters: ratio of them for each."),
            (flops / 6 / ratio, "this is N², since D grows with N."),
        ]
        yield Case(f"{flops:.3g} FLOPs, {ratio} tokens a parameter", partial(answer, flops, ratio), right, mistakes)


def skill(answer: Callable[..., Any]) -> Result:
    """`answer(work, measured, predicted)`: 1 - error / error of the constant, on some runs.

    work: FLOPs on each device; measured, predicted: seconds. An error is the mean of |predicted / measured - 1|; the
    constant says that every run reaches the median rate, work / measured, of those measured.
    """
    hint = "rates are work / measured; the constant predicts work / median(rates); compare the two mean errors."
    return examine("skill", answer, _skills(answer), hint)


def _skills(answer: Any) -> Iterator[Case]:
    runs = (
        ([100.0, 200.0, 400.0], [1.0, 2.5, 3.2], [1.1, 2.4, 3.3]),
        ([50.0, 60.0, 90.0, 200.0, 30.0], [0.4, 0.6, 0.8, 2.5, 0.2], [0.5, 0.5, 0.9, 2.0, 0.25]),
        ([10.0, 10.0, 10.0], [1.0, 1.02, 0.98], [1.2, 1.1, 0.9]),
    )
    for work, measured, predicted in runs:
        rates = [w / t for w, t in zip(work, measured, strict=True)]
        error = _error(predicted, measured)
        constant = _error([w / median(rates) for w in work], measured)
        averaged = _error([w / mean(rates) for w in work], measured)
        seconds = _error([median(measured)] * len(work), measured)
        mistakes = [
            (1 - error, "so far from a perfect prediction: divide the error by that of the constant."),
            (error / constant, "this is what is left of the constant's error: 1 minus it."),
            (1 - constant / error, "the error of the prediction is divided by that of the constant."),
            (1 - error / averaged, "the constant is the median of the rates, not their mean."),
            (1 - error / seconds, "the constant is a rate, not a time: a run with more work takes longer."),
        ]
        yield Case(f"{len(work)} runs", partial(answer, work, measured, predicted), 1 - error / constant, mistakes)


def _error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    return mean(abs(p / t - 1) for p, t in zip(predicted, measured, strict=True))


def cheapest(answer: Callable[..., Any]) -> Result:
    """`answer(rows, memory)`: the index of the row of the cheapest step that fits into `memory`; -1 if none does.

    rows: (GPUs, seconds a step, bytes on a GPU).
    """
    hint = "a step costs GPUs x seconds; look only at rows whose bytes are at most memory."
    return examine("cheapest", answer, _choices(answer), hint)


def _choices(answer: Any) -> Iterator[Case]:
    tables: tuple[tuple[Rows, int], ...] = (
        (((8, 10.0, 90), (16, 6.5, 40), (32, 2.9, 60), (64, 1.6, 70)), 80),
        (((4, 9.0, 80), (8, 4.2, 81), (2, 17.0, 85), (16, 2.4, 60)), 80),
        (((64, 1.0, 20), (128, 0.6, 15), (32, 1.9, 24)), 24),
        (((8, 3.0, 100), (16, 1.7, 90)), 80),
    )
    for rows, memory in tables:
        fitting = [i for i, row in enumerate(rows) if row[2] <= memory]
        strictly = [i for i in fitting if rows[i][2] < memory]
        mistakes = [
            (_least(rows, range(len(rows)), _cost), "it does not fit: look at the bytes first."),
            (_least(rows, fitting, lambda row: row[1]), "the fastest, not the cheapest: more GPUs cost more an hour."),
            (_least(rows, fitting, lambda row: row[0]), "the fewest GPUs may run so long that they cost more."),
            (_least(rows, strictly, _cost), "what fills the memory to the last byte still fits."),
            (_least(rows, fitting, lambda row: row[2]), "the least memory is not asked for: whatever fits will do."),
        ]
        what = f"rows {', '.join(map(str, rows))}, memory {memory}"
        yield Case(what, partial(answer, rows, memory), _least(rows, fitting, _cost), mistakes)


def _cost(row: tuple[int, float, int]) -> float:
    return row[0] * row[1]


def _least(rows: Rows, among: Any, key: Callable[[tuple[int, float, int]], float]) -> int:
    return min(among, key=lambda i: key(rows[i]), default=-1)
