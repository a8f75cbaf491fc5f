"""Exercises of notebook 32b: rounding by rows, bytes, masks of two kinds, and the loss of distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine


def rounded_rows(answer: Callable[..., Any]) -> Result:
    """`answer(weight, bits)`, [O, I]: the numbers that are left of it, symmetric, a scale for each row.

    The largest |w| of a row becomes the code 2^(bits-1) - 1.
    """
    hint = "scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1); (weight / scale).round() * scale."
    return examine("rounded_rows", answer, _roundings(answer), hint)


def _roundings(answer: Any) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    for rows, columns, bits in ((3, 8, 8), (2, 6, 4)):
        w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        w[0] *= 10
        top = 2 ** (bits - 1) - 1

        def by(scale: Tensor, w: Tensor = w) -> Tensor:
            return (w / scale).round() * scale

        row = w.abs().amax(1, keepdim=True)
        mistakes = [
            (by(w.abs().max() / top), "one scale for all: take the largest of each row, with keepdim=True."),
            (
                by(w.abs().amax(0, keepdim=True) / top),
                "a scale for each column: rows are wanted, amax over dimension 1.",
            ),
            (by(row / 2 ** (bits - 1)), f"the largest would be code {top + 1}: divide by 2^(bits-1) - 1."),
            (by(w.amax(1, keepdim=True) / top), "the largest number, not the largest size: take abs() before amax."),
            ((w / row * top).round(), "these are the codes: multiply by the scale again."),
        ]
        yield Case(f"{rows} x {columns}, {bits} bits", partial(answer, w.clone(), bits), by(row / top), mistakes)


def quantized_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(rows, columns, bits, group)`: the bytes of a matrix with a scale and a minimum in fp16 for each group."""
    hint = "rows x columns x bits / 8 of codes, and 2 x 2 bytes for each of rows x columns / group groups."
    return examine("quantized_bytes", answer, _bytes(answer), hint)


def _bytes(answer: Any) -> Iterator[Case]:
    for rows, columns, bits, group in ((64, 128, 4, 32), (100, 64, 8, 16)):
        n = rows * columns
        codes, groups = n * bits // 8, n // group
        mistakes = [
            (codes, "the codes alone mean nothing: each group has a scale and a minimum, too."),
            (codes + 2 * groups, "a scale *and* a minimum: two numbers of 2 bytes for each group."),
            (codes + 8 * groups, "fp16 has 2 bytes: not 4."),
            (n * bits + 4 * groups, "bits are not bytes: divide by 8."),
            (codes + 4 * rows, "a scale for each row: there are columns / group of them in a row."),
        ]
        what = f"{rows} x {columns}, {bits} bits, groups of {group}"
        yield Case(what, partial(answer, rows, columns, bits, group), codes + 4 * groups, mistakes)


def smallest_out(answer: Callable[..., Any]) -> Result:
    """`answer(weight, share)`: the weight with this share of its numbers, the smallest in size, at 0."""
    hint = "order = weight.abs().flatten().argsort(); put the first round(share * numel) places at 0, in a clone."
    return examine("smallest_out", answer, _masks(answer), hint)


def _masks(answer: Any) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(1)
    for rows, columns, share in ((4, 10, 0.5), (3, 8, 0.25)):
        w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        w[0] *= 0.1
        n = round(share * w.numel())
        by_row = w.scatter(1, w.abs().argsort(1)[:, : round(share * columns)], 0.0)
        mistakes = [
            (_without(w, w.flatten().argsort()[:n]), "the most negative ones go: their size counts, so take abs()."),
            (_without(w, w.abs().flatten().argsort()[-n:]), "the largest go: sort the other way round."),
            (by_row, "the same share of each row: small rows should lose more, so sort all together."),
            (_without(w, w.abs().flatten().argsort()[: w.numel() - n]), "share is what goes: you kept that much."),
        ]
        right = _without(w, w.abs().flatten().argsort()[:n])
        yield Case(f"{rows} x {columns}, {share:.0%}", partial(answer, w.clone(), share), right, mistakes)


def _without(w: Tensor, places: Tensor) -> Tensor:
    return w.flatten().index_fill(0, places, 0.0).view_as(w)


def two_of_four(answer: Callable[..., Any]) -> Result:
    """`answer(weight)`, [O, I]: of every four neighbours in a row the two largest in size, the others 0."""
    hint = "fours = weight.unflatten(1, (-1, 4)); places = fours.abs().topk(2).indices; scatter those into zeros."
    return examine("two_of_four", answer, _fours(answer), hint)


def _fours(answer: Any) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(2)
    for rows, columns in ((2, 8), (4, 12)):
        w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)

        def two(x: Tensor, largest: bool = True) -> Tensor:
            fours = x.unflatten(-1, (-1, 4))
            places = fours.abs().topk(2, largest=largest).indices
            return torch.zeros_like(fours).scatter(-1, places, fours.gather(-1, places)).flatten(-2)

        signed = w.unflatten(1, (-1, 4))
        places = signed.topk(2).indices
        mistakes = [
            (two(w, largest=False), "the two smallest stayed: keep the largest."),
            (
                torch.zeros_like(signed).scatter(-1, places, signed.gather(-1, places)).flatten(1),
                "the two largest numbers, not sizes: take abs() before topk.",
            ),
            (two(w.T.contiguous()).T if rows % 4 == 0 else w, "four of a column: neighbours in a row are wanted."),
            (_without(w, w.abs().flatten().argsort()[: w.numel() // 2]), "half of all: two of *every* four."),
        ]
        yield Case(f"{rows} x {columns}", partial(answer, w.clone()), two(w), mistakes)


def distilled(answer: Callable[..., Any]) -> Result:
    """`answer(student, teacher, T)`, logits [N, V]: the mean of T² KL(softmax(teacher / T) || softmax(student / T))."""
    hint = "p, q = softmax of both by T; (p * (p.log() - q.log())).sum(-1).mean() * T ** 2."
    return examine("distilled", answer, _distillations(answer), hint)


def _distillations(answer: Any) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(3)
    for N, V, T in ((3, 5, 2.0), (2, 4, 4.0)):
        student, teacher = (torch.randn(N, V, generator=generator, dtype=torch.float64) for _ in range(2))
        log_q, log_p = ((x / T).log_softmax(-1) for x in (student, teacher))
        plain = student.log_softmax(-1)
        forward, back = _divergence(log_p, log_q), _divergence(log_q, log_p)
        mistakes = [
            (forward, "T² is missing: without it the gradient shrinks as 1/T², and the teacher is not heard."),
            (back * T**2, "the wrong way round: the teacher's probabilities weigh the logarithms."),
            (_divergence(log_p, plain) * T**2, "only the teacher is softened: divide the student's logits by T, too."),
            (forward * T**2 * N, "a sum: take the mean over the N positions."),
            (forward * T**2 / V, "the mean over the vocabulary, too: sum over it, then the mean over N."),
            (forward * T, "T once: it is squared, for the gradient has 1/T twice."),
        ]
        run = partial(answer, student.clone(), teacher.clone(), T)
        yield Case(f"{N} x {V}, T = {T:g}", run, forward * T**2, mistakes)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
