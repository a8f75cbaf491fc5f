"""Shares by speed: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.splitting import shares_by_speed


def right(n, speeds):
    shares = [n * v // sum(speeds) for v in speeds]
    while sum(shares) < n:
        i = min(range(len(speeds)), key=lambda i: (shares[i] + 1) / speeds[i])
        shares[i] += 1
    return shares


def right_but_ties_go_to_the_last(n, speeds):
    return right(n, speeds[::-1])[::-1]


def equal(n, speeds):
    return [n // len(speeds) + (i < n % len(speeds)) for i in range(len(speeds))]


RIGHT = [(shares_by_speed, right), (shares_by_speed, right_but_ties_go_to_the_last)]
WRONG = [
    (shares_by_speed, equal, "all wait for the slowest"),
    (shares_by_speed, lambda n, speeds: [n * v / sum(speeds) for v in speeds], "nobody can do part of an item"),
    (shares_by_speed, lambda n, speeds: [n * v // sum(speeds) for v in speeds], "lost in rounding"),
    (
        shares_by_speed,
        lambda n, speeds: [round(n / v / sum(1 / s for s in speeds)) for v in speeds],
        "the slow ones get more",
    ),
    (shares_by_speed, lambda n, speeds: [n, *[0] * (len(speeds) - 1)], "rounded down; an item left over goes to"),
    (shares_by_speed, lambda n, speeds: n, "rounded down; an item left over goes to"),
]
