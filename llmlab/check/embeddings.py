"""Exercises of notebook 02: a look-up as a product, a sinusoid, a turn, and the rows of the vocabulary a rank holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import cos, pi, sin
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine, on_ranks


def look_up(answer: Callable[..., Any]) -> Result:
    """`answer(ids, table)`: the rows of a table for some ids, as the product of one-hot rows with the table."""
    hint = "make a [T, V] matrix of zeros with a 1 at (t, ids[t]), in the table's dtype, and multiply: one_hot @ table."
    return examine("look_up", answer, _look_ups(answer), hint)


def _look_ups(answer: Any) -> Iterator[Case]:
    for ids, vocabulary, width in (([2, 0, 2], 4, 3), ([1], 2, 5), ([0, 1, 2, 3], 4, 4)):
        table = torch.arange(1.0, vocabulary * width + 1, dtype=torch.float64).view(vocabulary, width)
        rows = table[ids]
        mistakes = [
            (rows.softmax(-1), "the rows after a softmax: an embedding has none."),
            (torch.eye(vocabulary, dtype=torch.float64)[ids], "that is the one-hot matrix; multiply it by the table."),
            (rows.T, "the transpose: one row for each id."),
            (rows.sum(0), "the rows added up: one row for each id."),
        ]
        what = f"ids {ids} in a table of {vocabulary} x {width}"
        yield Case(what, partial(answer, torch.tensor(ids), table), rows, mistakes)


def sinusoid(answer: Callable[..., Any]) -> Result:
    """`answer(t, i, d_model)`: number i of the sinusoids of position t, as Vaswani et al. 2017 define them."""
    hint = "numbers 2j and 2j + 1 share the angle t / 10000^(2j / d_model): its sine and its cosine."
    return examine("sinusoid", answer, _sinusoids(answer), hint)


def _sinusoids(answer: Any) -> Iterator[Case]:
    for t, i, d in ((3, 0, 8), (3, 1, 8), (3, 2, 8), (50, 5, 8), (0, 1, 4), (7, 6, 512)):
        pair = i - i % 2
        wave, other = (sin, cos) if i % 2 == 0 else (cos, sin)
        angle = t / 10000 ** (pair / d)
        mistakes = [
            (other(angle), "sine and cosine the wrong way round: even numbers are sines."),
            (wave(t / 10000 ** (i / d)), "each pair of numbers shares one angle: its exponent is 2j, even for 2j + 1."),
            (wave(t / 10000 ** (2 * i / d)), "number i belongs to pair j = i // 2: the exponent is 2j / d_model."),
            (wave(t * 10000 ** (pair / d)), "divide by 10000^...: later pairs turn more slowly."),
            (wave(2 * pi * t / 10000 ** (pair / d)), "no 2π: the angle is in radians already."),
        ]
        yield Case(f"t={t}, i={i}, d_model={d}", partial(answer, t, i, d), wave(angle), mistakes)


def turn(answer: Callable[..., Any]) -> Result:
    """`answer(x, y, angle)`: the pair (x, y) turned by an angle in radians, counter-clockwise."""
    hint = "x' = x cos - y sin, y' = x sin + y cos."
    return examine("turn", answer, _turns(answer), hint)


def _turns(answer: Any) -> Iterator[Case]:
    for x, y, angle in ((1.0, 0.0, 0.5), (0.0, 2.0, 0.5), (3.0, -1.0, 2.0), (1.5, 2.5, -0.25)):
        c, s = cos(angle), sin(angle)
        new = x * c - y * s
        mistakes = [
            ([x * c + y * s, y * c - x * s], "turned clockwise: the sines have the other signs."),
            ([new, new * s + y * c], "x had already changed when y was computed from it: keep the old x."),
            ([x * c, y * s], "each new number needs both old ones."),
        ]
        yield Case(f"({x}, {y}) by {angle}", partial(_pair, answer, x, y, angle), [new, x * s + y * c], mistakes)


def _pair(answer: Callable[..., Any], x: float, y: float, angle: float) -> Any:
    got = answer(x, y, angle)
    return list(got) if isinstance(got, tuple) else got


def split_look_up(answer: Callable[..., Any]) -> Result:
    """`answer(world, ids, rows)`: the look-up where rank r holds the r-th equal share of the table's rows.

    Every rank gets all ids and gives all vectors.
    """
    hint = "zero what this rank does not hold (mask the ids, look up the others minus the first row), then all_reduce."
    return examine("split_look_up", answer, _splits(answer), hint)


def _splits(answer: Any) -> Iterator[Case]:
    for ranks, ids in ((2, [0, 3, 3, 1]), (3, [5, 0, 2]), (4, [7, 0])):
        table = torch.arange(1.0, 4 * ranks + 1, dtype=torch.float64).view(2 * ranks, 2)
        shares = table.chunk(ranks)
        mine = [_own(torch.tensor(ids), share, 2 * rank) for rank, share in enumerate(shares)]
        clamped = [share[(torch.tensor(ids) - 2 * rank).clamp(0, 1)] for rank, share in enumerate(shares)]
        mistakes = [
            (mine, "each rank's own part: the ranks have to talk. all_reduce."),
            (
                [torch.stack(clamped).sum(0)] * ranks,
                "a row that a rank does not hold must count as zeros, not as the nearest one it has.",
            ),
            ([table[ids] / ranks] * ranks, "averaged: only one rank has each row, so add."),
        ]
        run = partial(on_ranks, answer, [(torch.tensor(ids), share) for share in shares])
        yield Case(f"{ranks} ranks, ids {ids}", run, [table[ids]] * ranks, mistakes, per_rank=True)


def _own(ids: Tensor, rows: Tensor, first: int) -> Tensor:
    held = (ids >= first) & (ids < first + len(rows))
    return rows[(ids - first).clamp(0, len(rows) - 1)] * held[:, None]


def score_left(answer: Callable[..., Any]) -> Result:
    """`answer(distance, base, size)`: the score that is left of two equal rotary vectors at a distance, 1 at 0.

    Vectors of `size` numbers, equal in all; pair i turns by base^(-2i / size) a position.
    """
    hint = "pair i adds cos(distance * base ** (-2 * i / size)); take the mean over the size / 2 pairs."
    return examine("score_left", answer, _scores_left(answer), hint)


def _scores_left(answer: Any) -> Iterator[Case]:
    for distance, base, size in ((40, 10.0, 32), (40, 100_000.0, 32), (3, 10_000.0, 8)):
        pairs = size // 2
        angles = [distance * base ** (-2 * i / size) for i in range(pairs)]
        right = sum(map(cos, angles)) / pairs
        slow = [distance * base ** (-i / size) for i in range(pairs)]
        mistakes = [
            (sum(map(cos, slow)) / pairs, "i / size in the exponent: it is 2i / size, for the pairs are half as many."),
            (right * pairs, "the pairs' sum; at distance 0 the score should be 1: take their mean."),
            (
                cos(sum(angles) / pairs),
                "the cosine of the mean angle: each pair turns by its own; take the cosines' mean.",
            ),
            (sum(map(sin, angles)) / pairs, "sines: two vectors at an angle of 0 have the score 1."),
            (
                sum(cos(distance * base ** (2 * i / size)) for i in range(pairs)) / pairs,
                "later pairs turn faster and faster: the exponent is negative.",
            ),
        ]
        what = f"{distance} positions apart, base {base:g}, heads of {size}"
        yield Case(what, partial(answer, distance, base, size), right, mistakes)


def nearest_row(answer: Callable[..., Any]) -> Result:
    """`answer(vector, table)`: the number of the row of [V, D] that is most similar to a vector, by the cosine."""
    hint = "divide the vector and each row by their lengths, multiply, and take the argmax."
    return examine("nearest_row", answer, _nearest(answer), hint)


def _nearest(answer: Any) -> Iterator[Case]:
    for vector, rows in (
        ([1.0, 0.0], [[3.0, 0.1], [10.0, 9.0], [0.9, 0.1], [-2.0, 0.0]]),
        ([1.0, 2.0], [[9.0, 1.0], [-1.0, -2.0], [2.0, 4.2], [1.0, 1.5]]),
    ):
        x, table = torch.tensor(vector, dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)
        cosines = torch.nn.functional.cosine_similarity(table, x[None])
        mistakes = [
            (
                (table @ x).argmax(),
                "the largest product: a long row wins whatever its direction. Divide by the lengths.",
            ),
            ((table - x).norm(dim=1).argmin(), "the least distance: it asks for the same length, too."),
            (cosines.abs().argmax(), "the opposite direction: a cosine of -1 is the least similar."),
            (cosines.max(), "the similarity itself; asked is the row's number."),
        ]
        yield Case(f"{vector} among {rows}", partial(answer, x, table), cosines.argmax(), mistakes)
