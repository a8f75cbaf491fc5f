"""Embeddings and positions: right answers, and wrong ones with their hints."""

from __future__ import annotations

from math import cos, pi, sin

import torch

from llmlab.check.embeddings import look_up, sinusoid, split_look_up, turn


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


RIGHT = [
    (look_up, one_hot),
    (sinusoid, wave(pair)),
    (turn, lambda x, y, a: (x * cos(a) - y * sin(a), x * sin(a) + y * cos(a))),
    (split_look_up, split),
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
]
