"""Smaller models: right answers, and wrong ones with their hints."""

from __future__ import annotations

import torch

from llmlab.check.smaller import distilled, quantized_bytes, rounded_rows, smallest_out, two_of_four
from llmlab.compressing import distillation_loss


def rounded(w, bits, dim=1, top=-1, size=torch.abs):
    most = size(w).max() if dim is None else size(w).amax(dim, keepdim=True)
    scale = most / (2 ** (bits - 1) + top)
    return (w / scale).round() * scale


def pruned(w, places):
    w = w.flatten().clone()
    w[places] = 0
    return w


def first(w, share):
    return round(share * w.numel())


def by_rows(w, share):
    return torch.stack([pruned(row, row.abs().argsort()[: round(share * len(row))]) for row in w])


def twos(w, size=torch.abs, largest=True):
    fours = w.unflatten(1, (-1, 4))
    kept = torch.zeros_like(fours).scatter(-1, size(fours).topk(2, largest=largest).indices, 1.0)
    return (fours * kept).flatten(1)


def divergence(student, teacher, T, soft=None):
    q, p = (student / (T if soft is None else soft)).softmax(-1), (teacher / T).softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def by_the_library(student, teacher, T):
    return distillation_loss(student, teacher, torch.zeros(len(student), dtype=torch.long), T, 1.0)


RIGHT = [
    (rounded_rows, rounded),
    (quantized_bytes, lambda rows, columns, bits, group: rows * columns * bits // 8 + 4 * rows * columns // group),
    (smallest_out, lambda w, share: pruned(w, w.abs().flatten().argsort()[: first(w, share)]).view_as(w)),
    (two_of_four, twos),
    (distilled, lambda s, t, T: divergence(s, t, T).mean() * T**2),
    (distilled, by_the_library),
]
WRONG = [
    (rounded_rows, lambda w, bits: rounded(w, bits, None), "one scale for all"),
    (rounded_rows, lambda w, bits: rounded(w, bits, 0), "for each column"),
    (rounded_rows, lambda w, bits: rounded(w, bits, top=0), "divide by 2^(bits-1) - 1"),
    (rounded_rows, lambda w, bits: rounded(w, bits, size=lambda x: x), "not the largest size"),
    (rounded_rows, lambda w, bits: (w / w.abs().amax(1, keepdim=True) * (2 ** (bits - 1) - 1)).round(), "the codes"),
    (rounded_rows, lambda w, bits: w.round(), "keepdim=True"),
    (quantized_bytes, lambda rows, columns, bits, group: rows * columns * bits // 8, "mean nothing"),
    (
        quantized_bytes,
        lambda rows, columns, bits, group: rows * columns * bits // 8 + 2 * rows * columns // group,
        "a scale *and* a minimum",
    ),
    (
        quantized_bytes,
        lambda rows, columns, bits, group: rows * columns * bits // 8 + 8 * rows * columns // group,
        "fp16 has 2 bytes",
    ),
    (
        quantized_bytes,
        lambda rows, columns, bits, group: rows * columns * bits + 4 * rows * columns // group,
        "divide by 8",
    ),
    (quantized_bytes, lambda rows, columns, bits, group: rows * columns * bits // 8 + 4 * rows, "for each row"),
    (quantized_bytes, lambda rows, columns, bits, group: 1, "of codes"),
    (smallest_out, lambda w, share: pruned(w, w.flatten().argsort()[: first(w, share)]).view_as(w), "most negative"),
    (
        smallest_out,
        lambda w, share: pruned(w, w.abs().flatten().argsort()[-first(w, share) :]).view_as(w),
        "the largest go",
    ),
    (smallest_out, by_rows, "share of each row"),
    (smallest_out, lambda w, share: w, "argsort()"),
    (two_of_four, lambda w: twos(w, largest=False), "the two smallest stayed"),
    (two_of_four, lambda w: twos(w, size=lambda x: x), "not sizes"),
    (two_of_four, lambda w: pruned(w, w.abs().flatten().argsort()[: w.numel() // 2]).view_as(w), "half of all"),
    (two_of_four, lambda w: w, "unflatten"),
    (distilled, lambda s, t, T: divergence(s, t, T).mean(), "T² is missing"),
    (distilled, lambda s, t, T: divergence(t, s, T).mean() * T**2, "the wrong way round"),
    (distilled, lambda s, t, T: divergence(s, t, T, 1.0).mean() * T**2, "only the teacher"),
    (distilled, lambda s, t, T: divergence(s, t, T).sum() * T**2, "take the mean over"),
    (distilled, lambda s, t, T: divergence(s, t, T).mean() * T, "it is squared"),
    (distilled, lambda s, t, T: divergence(s, t, T).mean() * T**2 / s.shape[1], "over the vocabulary"),
    (distilled, lambda s, t, T: s.mean(), "softmax of both"),
]
