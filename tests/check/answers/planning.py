"""Planning: right answers, and wrong ones with their hints."""

from __future__ import annotations

from math import exp, log
from statistics import mean, median

from llmlab.check.planning import (
    best_size,
    cheapest,
    fewest_gpus,
    inside_interval,
    mfu_of_hfu,
    regret,
    skill,
    training_gpu_hours,
)


def hours(n_param, tokens, peak, mfu, flops=6):
    return flops * n_param * tokens / (peak * mfu * 3600)


def useful(hfu, recompute, forwards=2):
    return hfu * 3 / (2 + forwards) if recompute == "full" else hfu


def size(flops, ratio, pair=6):
    return (flops / (pair * ratio)) ** 0.5


def off(predicted, measured):
    return mean(abs(p - t) / t for p, t in zip(predicted, measured, strict=True))


def rate(work, measured, middle=median):
    return middle([w / t for w, t in zip(work, measured, strict=True)])


def gained(work, measured, predicted, middle=median):
    return 1 - off(predicted, measured) / off([w / rate(work, measured, middle) for w in work], measured)


def by_seconds(work, measured, predicted):
    return 1 - off(predicted, measured) / off([median(measured)] * len(work), measured)


def turned(work, measured, predicted):
    return 1 - 1 / (1 - gained(work, measured, predicted))


def pick(rows, memory, key=lambda row: row[0] * row[1], fits=lambda needed, memory: needed <= memory):
    found = [(key(row), i) for i, row in enumerate(rows) if fits(row[2], memory)]
    return min(found)[1] if found else -1


def inside(predicted, measured, spread, within=lambda p, t, spread: abs(log(t / p)) <= spread):
    return mean(within(p, t, spread) for p, t in zip(predicted, measured, strict=True))


def in_time(rows, tokens_a_step, tokens, days, day=86400, choose=min):
    found = [gpus for gpus, seconds in rows if seconds * tokens / tokens_a_step <= days * day]
    return choose(found) if found else -1


def by_gpu_days(rows, tokens_a_step, tokens, days):
    return in_time([(gpus, seconds * gpus / 512) for gpus, seconds in rows], tokens_a_step, tokens, days)


def slower(predicted, measured):
    return measured[predicted.index(min(predicted))] / min(measured) - 1


def by_prediction(predicted, measured):
    return predicted[measured.index(min(measured))] / min(predicted) - 1


RIGHT = [
    (training_gpu_hours, hours),
    (mfu_of_hfu, useful),
    (best_size, size),
    (skill, gained),
    (cheapest, pick),
    (inside_interval, inside),
    (fewest_gpus, in_time),
    (regret, slower),
]
WRONG = [
    (training_gpu_hours, lambda *a: hours(*a, flops=2), "2 FLOPs a parameter are the forward pass"),
    (training_gpu_hours, lambda *a: hours(*a, flops=8), "which the MFU does not"),
    (training_gpu_hours, lambda *a: 3600 * hours(*a), "these are seconds"),
    (training_gpu_hours, lambda n, tokens, peak, mfu: hours(n, tokens, peak, 1), "nobody reaches the peak"),
    (training_gpu_hours, lambda n, tokens, peak, mfu: hours(n, tokens, peak, 1 / mfu), "takes longer: divide by it"),
    (training_gpu_hours, lambda *a: 1.0, "an hour has 3,600"),
    (mfu_of_hfu, lambda hfu, recompute: hfu, "that the model does not need"),
    (mfu_of_hfu, lambda hfu, recompute: 2 * hfu - useful(hfu, recompute, 1.25), "count what is done"),
    (mfu_of_hfu, lambda hfu, recompute: hfu**2 / useful(hfu, recompute), "recomputed FLOPs are no progress"),
    (mfu_of_hfu, lambda hfu, recompute: useful(hfu, recompute, 2.5), "not two"),
    (mfu_of_hfu, lambda hfu, recompute: useful(hfu, "full"), "nothing was computed again"),
    (mfu_of_hfu, lambda hfu, recompute: useful(hfu, recompute, 4), "backward is not"),
    (best_size, lambda flops, ratio: ratio * size(flops, ratio), "these are the tokens"),
    (best_size, lambda flops, ratio: size(flops, ratio, 1), "take 6 FLOPs"),
    (best_size, lambda flops, ratio: size(flops, ratio, 2), "there is a backward pass"),
    (best_size, lambda flops, ratio: size(flops, 1), "as many tokens as parameters"),
    (best_size, lambda flops, ratio: size(flops, ratio) ** 2, "this is N²"),
    (best_size, lambda flops, ratio: 70e9, "two equations"),
    (skill, lambda work, measured, predicted: 1 - off(predicted, measured), "divide the error by that of the constant"),
    (skill, lambda *a: 1 - gained(*a), "1 minus it"),
    (skill, turned, "is divided by that of the constant"),
    (skill, lambda *a: gained(*a, middle=mean), "not their mean"),
    (skill, by_seconds, "a rate, not a time"),
    (skill, lambda *a: 0.5, "compare the two mean errors"),
    (cheapest, lambda rows, memory: pick(rows, 1000), "it does not fit"),
    (cheapest, lambda *a: pick(*a, key=lambda row: row[1]), "the fastest, not the cheapest"),
    (cheapest, lambda *a: pick(*a, key=lambda row: row[0]), "the fewest GPUs"),
    (cheapest, lambda *a: pick(*a, fits=lambda needed, memory: needed < memory), "still fits"),
    (cheapest, lambda *a: pick(*a, key=lambda row: row[2]), "the least memory is not asked for"),
    (cheapest, lambda *a: 0, "a step costs GPUs x seconds"),
    (inside_interval, lambda *a: inside(*a, within=lambda p, t, s: abs(t / p - 1) <= s), "is another interval"),
    (inside_interval, lambda *a: inside(*a, within=lambda p, t, s: t <= p * exp(s)), "there is a lower end"),
    (inside_interval, lambda *a: inside(*a, within=lambda p, t, s: t >= p / exp(s)), "there is an upper end"),
    (inside_interval, lambda *a: 1 - inside(*a), "the share outside"),
    (inside_interval, lambda predicted, *a: len(predicted) * inside(predicted, *a), "this is how many"),
    (inside_interval, lambda *a: 0.9, "count them"),
    (fewest_gpus, lambda *a: in_time(*a, choose=lambda found: found[0]), "in any order"),
    (fewest_gpus, lambda *a: in_time(*a, choose=max), "this is the fastest"),
    (fewest_gpus, lambda *a: in_time(*a, day=3600), "a day has 24 hours"),
    (fewest_gpus, by_gpu_days, "on the calendar"),
    (fewest_gpus, lambda *a: 512, "of those in time"),
    (regret, lambda *a: slower(*a) + 1, "subtract 1"),
    (regret, by_prediction, "predictions only choose"),
    (
        regret,
        lambda predicted, measured: measured[predicted.index(min(predicted))] / min(predicted) - 1,
        "one prediction",
    ),
    (regret, lambda predicted, measured: slower(predicted, measured) * min(measured), "these are seconds"),
    (regret, lambda *a: 1 - 1 / (1 + slower(*a)), "not of the one picked"),
    (regret, lambda *a: 0.0, "the layout of the least predicted"),
]
