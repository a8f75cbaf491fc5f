"""Many machines, failures and reports: right answers, and wrong ones with their hints."""

from __future__ import annotations

import math
from collections import Counter

from llmlab.check.surviving import (
    best_interval,
    bits_per_byte,
    farthest_apart,
    machine_efficiency,
    machine_of,
    odd_ranks,
    own_rows,
    pieces_to_read,
    steps_repeated,
)


def rows(order, n, batch, rank, ranks):
    share = batch // ranks
    return order[n * batch + rank * share :][:share]


def pieces(size, saved, rank, ranks, touching=0):
    old, new = size // saved, size // ranks
    return [i for i in range(saved) if i * old < (rank + 1) * new + touching and (i + 1) * old > rank * new - touching]


def odd(hashes):
    usual = Counter(hashes).most_common(1)[0][0]
    return [rank for rank, value in enumerate(hashes) if value != usual]


RIGHT = [
    (machine_of, divmod),
    (own_rows, rows),
    (pieces_to_read, pieces),
    (best_interval, lambda save, mtbf, n: math.sqrt(2 * save * mtbf / n)),
    (steps_repeated, lambda kills, every: sum(k % every for k in kills)),
    (odd_ranks, odd),
    (bits_per_byte, lambda nats, tokens, n: nats * tokens / math.log(2) / n),
    (farthest_apart, lambda a, b: max(abs(x - y) / y for x, y in zip(a, b, strict=True))),
    (machine_efficiency, lambda alone, seconds, ranks: alone / seconds / ranks),
]
WRONG = [
    (machine_of, lambda rank, per: (rank % per, rank // per), "the machine comes first"),
    (machine_of, lambda rank, per: (rank // per + 1, rank % per), "counted from 1"),
    (machine_of, lambda rank, per: rank // per, "the machine alone"),
    (own_rows, lambda order, n, batch, rank, ranks: order[n * batch : (n + 1) * batch], "the same rows"),
    (own_rows, lambda order, n, batch, rank, ranks: rows(list(range(99)), n, batch, rank, ranks), "of the file"),
    (
        own_rows,
        lambda order, n, batch, rank, ranks: order[rank * 12 // ranks + n * batch // ranks :][: batch // ranks],
        "a stretch of its own",
    ),
    (pieces_to_read, lambda size, saved, rank, ranks: list(range(saved)), "all of them"),
    (pieces_to_read, lambda size, saved, rank, ranks: pieces(size, saved, rank, ranks, 1), "only touches"),
    (pieces_to_read, lambda size, saved, rank, ranks: pieces(size, saved, rank, ranks)[:1], "only the first"),
    (pieces_to_read, lambda size, saved, rank, ranks: [rank], "the same number"),
    (best_interval, lambda save, mtbf, n: math.sqrt(2 * save * mtbf), "of one device"),
    (best_interval, lambda save, mtbf, n: math.sqrt(save * mtbf / n), "a 2 is missing"),
    (best_interval, lambda save, mtbf, n: 2 * save * mtbf / n, "seconds squared"),
    (steps_repeated, lambda kills, every: sum(kills), "from the first step on"),
    (steps_repeated, lambda kills, every: sum(every - k % every for k in kills), "up to the next checkpoint"),
    (steps_repeated, lambda kills, every: len(kills) * every, "a whole interval"),
    (odd_ranks, lambda hashes: [r for r, h in enumerate(hashes) if h != hashes[0]], "rank 0 that is wrong"),
    (odd_ranks, lambda hashes: [hashes[r] for r in odd(hashes)], "their hashes"),
    (odd_ranks, lambda hashes: [r for r in range(len(hashes)) if r not in odd(hashes)], "those that agree"),
    (bits_per_byte, lambda nats, tokens, n: nats * tokens / n, "nats per byte"),
    (bits_per_byte, lambda nats, tokens, n: nats / math.log(2), "bits per token"),
    (bits_per_byte, lambda nats, tokens, n: nats * math.log(2) * tokens / n, "multiplied by ln 2"),
    (farthest_apart, lambda a, b: sum(abs(x - y) / y for x, y in zip(a, b, strict=True)) / len(a), "the mean"),
    (farthest_apart, lambda a, b: max(abs(x - y) for x, y in zip(a, b, strict=True)), "not a share"),
    (farthest_apart, lambda a, b: abs(a[-1] - b[-1]) / b[-1], "of the last step alone"),
    (farthest_apart, lambda a, b: max((x - y) / y for x, y in zip(a, b, strict=True)), "with its sign"),
    (machine_efficiency, lambda alone, seconds, ranks: alone / seconds, "the speedup"),
    (machine_efficiency, lambda alone, seconds, ranks: seconds / alone, "the other way round"),
    (machine_efficiency, lambda alone, seconds, ranks: alone / seconds * ranks, "less efficient"),
]
