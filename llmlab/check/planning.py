"""Exercises of notebooks 31 and 31b: what a number is worth, what a training costs, and which layout to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from math import exp
from statistics import mean, median
from typing import Any

from llmlab.check.examine import Case, Result, examine
from llmlab.check.values import Verdict, examine_value

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


def inside_interval(answer: Callable[..., Any]) -> Result:
    """`answer(predicted, measured, spread)`: the share of the measured steps inside the interval of their prediction.

    predicted, measured: seconds; the interval reaches from predicted / e^spread to predicted * e^spread.
    """
    hint = "a step is inside if |log(measured / predicted)| is at most the spread; count them, divide by all."
    return examine("inside_interval", answer, _intervals(answer), hint)


def _intervals(answer: Any) -> Iterator[Case]:
    for predicted, measured, spread in (
        ([1.0, 2.0, 4.0, 8.0], [1.15, 2.9, 2.9, 8.1], 0.35),
        ([1.0, 1.0, 1.0, 1.0, 1.0], [0.71, 1.41, 0.66, 1.36, 1.0], 0.34),
        ([3.0, 5.0], [3.0, 9.0], 0.1),
    ):
        ratios = [t / p for p, t in zip(predicted, measured, strict=True)]
        low, high = exp(-spread), exp(spread)
        right = mean(low <= ratio <= high for ratio in ratios)
        around = mean(1 - spread <= ratio <= 1 + spread for ratio in ratios)
        below, above = mean(ratio <= high for ratio in ratios), mean(ratio >= low for ratio in ratios)
        mistakes = [
            (around, "predicted x (1 ± spread) is another interval: this one is a factor e^spread up and down."),
            (below, "a step may be too fast for its prediction, too: there is a lower end."),
            (above, "a step may be too slow for its prediction, too: there is an upper end."),
            (1 - right, "this is the share outside."),
            (right * len(predicted), "this is how many; the share of all is asked for."),
        ]
        what = f"{len(predicted)} steps, spread {spread}"
        yield Case(what, partial(answer, predicted, measured, spread), right, mistakes)


def fewest_gpus(answer: Callable[..., Any]) -> Result:
    """`answer(rows, tokens_a_step, tokens, days)`: the fewest GPUs that train on `tokens` within `days`; -1 if none do.

    rows: (GPUs, seconds a step), in any order; a step takes the same tokens on all of them.
    """
    hint = "tokens / tokens_a_step steps, each of so many seconds; a day has 86,400; of those in time the fewest GPUs."
    return examine("fewest_gpus", answer, _deadlines(answer), hint)


def _deadlines(answer: Any) -> Iterator[Case]:
    rows = ((2048, 4.5), (512, 17.1), (4096, 2.5), (1024, 8.7))
    for a_step, tokens, days in ((8.4e6, 15e12, 200), (8.4e6, 15e12, 60), (4.2e6, 1e12, 60), (8.4e6, 15e12, 30)):
        taken = {gpus: seconds * tokens / a_step / 86400 for gpus, seconds in rows}  # days
        in_time = [gpus for gpus in taken if taken[gpus] <= days] or [-1]
        gpu_days = [gpus for gpus in taken if taken[gpus] * gpus <= days * 512] or [-1]
        hours = [gpus for gpus in taken if taken[gpus] * 24 <= days] or [-1]
        mistakes = [
            (in_time[0], "the first in time is not the one of the fewest GPUs: the rows come in any order."),
            (max(in_time), "this is the fastest: fewer are in time as well."),
            (min(gpu_days), "the days go by on the calendar: GPU-days are not asked for."),
            (min(hours), "a day has 24 hours of 3,600 s."),
        ]
        what = f"{tokens:.3g} tokens at {a_step:.3g} a step within {days} days"
        yield Case(what, partial(answer, rows, a_step, tokens, days), min(in_time), mistakes)


SIZES, DEADLINE = (512, 1024, 2048, 4096), 60  # GPUs, days


def gpus_in_time(answer: Any) -> Result:
    """`answer`: the fewest H100s of 512, 1,024, 2,048 and 4,096 with which Llama 3 70B sees 15T tokens in 60 days."""
    return examine_value("gpus_in_time", answer, "a number of GPUs: 512, 1024, 2048 or 4096", _in_time)


def _in_time(answer: Any) -> Verdict | None:
    if not isinstance(answer, int) or answer not in SIZES:
        return None
    days = {gpus: _planned_days(gpus) for gpus in SIZES}
    fewest = min(gpus for gpus in SIZES if days[gpus] <= DEADLINE)
    words = f"{answer:,} GPUs take {days[answer]:.0f} days"
    if answer == fewest:
        return Verdict(True, f"{words} (modelled).")
    look = "too long." if days[answer] > DEADLINE else "in time, and so are fewer."
    return Verdict(False, f"{words}: {look}", "plan each of the four; GPU-hours / GPUs / 24 are the days it takes.")


@cache
def _planned_days(gpus: int) -> float:
    from llmlab.cost.planning import plan  # here, for who checks a function waits for no planner

    best = plan("llama3-70b", "h100", gpus=gpus, global_batch=1024, seq=8192, tokens=15e12, limit=1)[0]
    return best.gpu_hours / gpus / 24


def regret(answer: Callable[..., Any]) -> Result:
    """`answer(predicted, measured)`: how much slower the layout predicted to be fastest ran than the fastest measured.

    predicted, measured: seconds of the same layouts; 0.05 means 5% slower.
    """
    hint = "take the layout of the least predicted seconds; its measured seconds over the least measured ones, minus 1."
    return examine("regret", answer, _sweeps(answer), hint)


def _sweeps(answer: Any) -> Iterator[Case]:
    for predicted, measured in (
        ([3.0, 2.0, 2.5], [3.6, 2.6, 2.4]),
        ([1.0, 1.1, 0.9, 1.3], [1.4, 1.25, 1.5, 1.2]),
        ([5.0, 4.0], [6.0, 5.5]),
    ):
        pick = min(range(len(predicted)), key=lambda i: predicted[i])
        best = min(range(len(measured)), key=lambda i: measured[i])
        right = measured[pick] / measured[best] - 1
        mistakes = [
            (right + 1, "as a share of the fastest: subtract 1, what is as fast has none."),
            (predicted[best] / predicted[pick] - 1, "these are predicted seconds: predictions only choose."),
            (measured[pick] / predicted[pick] - 1, "this is the error of one prediction: compare with the fastest."),
            (measured[pick] - measured[best], "these are seconds: as a share of the fastest."),
            (1 - measured[best] / measured[pick], "as a share of the fastest, not of the one picked."),
        ]  # fmt: skip
        yield Case(f"{len(predicted)} layouts", partial(answer, predicted, measured), right, mistakes)
