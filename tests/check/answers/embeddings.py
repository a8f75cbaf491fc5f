"""Embeddings and positions: right answers, and wrong ones with their hints."""

from __future__ import annotations

from math import cos, pi, sin

import torch

from llmlab.check.embeddings import look_up, nearest_row, score_left, sinusoid, split_look_up, turn


def one_hot(ids, table):
    return torch.nn.functional.one_hot(ids, len(table)).to(table.dtype) @ table


def wave(exponent, factor=1.0, even=sin, odd=cos):
    return lambda t, i, d: (odd if i % 2 else even)(factor * t / 10000 ** exponent(i, d))


def split(world, ids, rows):
    own = ids - world.rank * len(rows)
    held = (own >= 0) & (own < len(rows))
    return world.all_reduce(torch.where(held[:, None], rows[own.clamp(0, len(rows) - 1)], 0.0))


def in_place(x, y, angle):
    x = x * cos(angle) - y * sin(angle)
    return x, x * sin(angle) + y * cos(angle)


def pair(i, d):
    return (i // 2) * 2 / d


def left(distance, base, size, step=-2, wave=cos):
    return sum(wave(distance * base ** (step * i / size)) for i in range(size // 2)) / (size // 2)


def mean_angle(distance, base, size):
    return cos(sum(distance * base ** (-2 * i / size) for i in range(size // 2)) / (size // 2))


def cosines(vector, table):
    return torch.nn.functional.normalize(table, dim=1) @ torch.nn.functional.normalize(vector, dim=0)


RIGHT = [
    (look_up, one_hot),
    (sinusoid, wave(pair)),
    (turn, lambda x, y, a: (x * cos(a) - y * sin(a), x * sin(a) + y * cos(a))),
    (split_look_up, split),
    (score_left, left),
    (nearest_row, lambda vector, table: cosines(vector, table).argmax().item()),
]
WRONG = [
    (look_up, lambda ids, table: one_hot(ids, table).softmax(-1), "after a softmax"),
    (look_up, lambda ids, table: torch.eye(len(table))[ids], "multiply it by the table"),
    (look_up, lambda ids, table: one_hot(ids, table).T, "the transpose"),
    (look_up, lambda ids, table: one_hot(ids, table).sum(0), "added up"),
    (sinusoid, wave(pair, even=cos, odd=sin), "the wrong way round"),
    (sinusoid, wave(lambda i, d: i / d), "shares one angle"),
    (sinusoid, wave(lambda i, d: 2 * i / d), "pair j = i // 2"),
    (sinusoid, wave(lambda i, d: -pair(i, d)), "turn more slowly"),
    (sinusoid, wave(pair, factor=2 * pi), "no 2π"),
    (turn, lambda x, y, a: (x * cos(a) + y * sin(a), y * cos(a) - x * sin(a)), "clockwise"),
    (turn, in_place, "keep the old x"),
    (turn, lambda x, y, a: (x * cos(a), y * sin(a)), "needs both"),
    (split_look_up, lambda world, ids, rows: split(world, ids, rows) / world.size, "averaged"),
    (
        split_look_up,
        lambda world, ids, rows: world.all_reduce(rows[(ids - world.rank * len(rows)).clamp(0, len(rows) - 1)]),
        "must count as zeros",
    ),
    (
        split_look_up,
        lambda world, ids, rows: torch.where(
            (ids // len(rows) == world.rank)[:, None], rows[(ids - world.rank * len(rows)).clamp(0, 1)], 0.0
        ),
        "the ranks have to talk",
    ),
    (score_left, lambda *a: left(*a, step=-1), "the pairs are half as many"),
    (score_left, lambda distance, base, size: left(distance, base, size) * size / 2, "should be 1"),
    (score_left, mean_angle, "the cosines' mean"),
    (score_left, lambda *a: left(*a, wave=sin), "have the score 1"),
    (score_left, lambda *a: left(*a, step=2), "exponent is negative"),
    (nearest_row, lambda vector, table: (table @ vector).argmax(), "the largest product"),
    (nearest_row, lambda vector, table: (table - vector).norm(dim=1).argmin(), "the same length, too"),
    (nearest_row, lambda vector, table: cosines(vector, table).abs().argmax(), "the opposite direction"),
    (nearest_row, lambda vector, table: cosines(vector, table).max(), "the row's number"),
]
