"""Exercises of notebook 10: split, compute, merge."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from llmlab.check.examine import Case, Result, examine, on_ranks


def mean_of_parts(answer: Callable[..., Any]) -> Result:
    """`answer(world, part)`: the mean of all ranks' numbers, on every rank, from parts of unequal length."""
    hint = "all_reduce the sum and the count, then divide one by the other."
    return examine("mean_of_parts", answer, _means(answer), hint)


def _means(answer: Any) -> Iterator[Case]:
    for lengths in ([1, 3], [2, 5, 2], [4, 1, 1, 2]):
        ranks, numbers = len(lengths), torch.arange(1.0, sum(lengths) + 1, dtype=torch.float64).square()
        parts = numbers.split(lengths)
        means = torch.stack([part.mean() for part in parts])
        mistakes = [
            ([means.mean()] * ranks, "the mean of the parts' means: a longer part must weigh more."),
            ([numbers.sum() / ranks] * ranks, "divided by the number of parts, M; a mean divides by that of items, N."),
            (list(means), "each rank's own mean: the ranks have to talk. all_reduce."),
            ([numbers.sum()] * ranks, "the sum: how many numbers are there, over all ranks?"),
        ]
        what = f"{ranks} ranks with {', '.join(map(str, lengths))} numbers"
        run = partial(on_ranks, answer, [(part,) for part in parts])
        yield Case(what, run, [numbers.mean()] * ranks, mistakes, per_rank=True)


def split_evenly(answer: Callable[..., Any]) -> Result:
    """`answer(n, workers)`: the list of how many of n items each worker gets, as even as can be, longer parts first."""
    hint = "every worker gets n // workers items, and the first n % workers of them one more."
    return examine("split_evenly", answer, _splits(answer), hint)


def _splits(answer: Any) -> Iterator[Case]:
    for n, workers in ((12, 4), (10, 4), (11, 3), (2, 3)):
        low, longer = divmod(n, workers)
        up = -(-n // workers)
        mistakes = [
            ([low] * workers, "the remainder is lost: n % workers of the parts get one more."),
            (
                [low] * (workers - 1) + [low + longer],
                "one worker gets the whole remainder, and the others wait for it.",
            ),
            ([max(0, min(up, n - i * up)) for i in range(workers)], "rounded up, so that the last gets too little."),
            ([low + (i >= workers - longer) for i in range(workers)], "the right sizes; the longer ones come first."),
        ]
        expected = [low + (i < longer) for i in range(workers)]
        yield Case(f"{n} items, {workers} workers", partial(answer, n, workers), expected, mistakes)


def amdahl(answer: Callable[..., Any]) -> Result:
    """`answer(serial, workers)`: the speedup if a share `serial` of the work cannot be split (Amdahl 1967)."""
    hint = "one worker's time is 1 = serial + parallel; which of the two do the workers shorten, and by how much?"
    return examine("amdahl", answer, _speedups(answer), hint)


def _speedups(answer: Any) -> Iterator[Case]:
    for s, p in ((0.1, 4), (0.05, 64), (0.5, 2)):
        mistakes = [
            (s + (1 - s) / p, "the time, as a share of one worker's: the speedup is its inverse."),
            (s + (1 - s) * p, "Gustafson's law, for work that grows with the workers: here it stays."),
            (1 / (1 - s + s / p), "the two shares are the wrong way round."),
            (1 / s, "the limit for infinitely many workers."),
        ]
        yield Case(f"serial share {s}, {p} workers", partial(answer, s, p), 1 / (s + (1 - s) / p), mistakes)


def serial_share(answer: Callable[..., Any]) -> Result:
    """`answer(speedup, workers)`: the serial share that explains a measured speedup (Karp and Flatt 1990)."""
    hint = "solve Amdahl's law, 1 / speedup = s + (1 - s) / workers, for s."
    return examine("serial_share", answer, _shares(answer), hint)


def _shares(answer: Any) -> Iterator[Case]:
    for speedup, p in ((1.6, 2), (3.0, 4), (5.0, 16)):
        mistakes = [
            (speedup / p, "the efficiency, speedup / workers."),
            (1 - speedup / p, "the lost efficiency: it grows with the workers, the serial share does not."),
            (1 / speedup, "this takes the parallel part to cost nothing: with few workers it does."),
        ]
        expected = (p / speedup - 1) / (p - 1)
        yield Case(f"a speedup of {speedup} on {p} workers", partial(answer, speedup, p), expected, mistakes)


def work_for_speedup(answer: Callable[..., Any]) -> Result:
    """`answer(a, b, ranks, speedup)`: the items n for which T(n, 1) = speedup T(n, ranks), with T = a + b n / ranks."""
    hint = "write both times out, a + b n and speedup (a + b n / ranks), set them equal, and gather what has n in it."
    return examine("work_for_speedup", answer, _works(answer), hint)


def _works(answer: Any) -> Iterator[Case]:
    for a, b, p, s in ((6.0, 2.0, 4, 3.0), (0.01, 1e-8, 16, 12.0), (1.0, 0.5, 8, 2.0)):
        mistakes = [
            (a * s / (b * (1 - s / p)), "one rank pays the fixed part too: a stands on both sides."),
            (a * (s - 1) / b, "the ranks have their share to compute as well: b n / ranks, speedup times."),
            (a * (s - 1) / (1 - s / p), "seconds, not items: divide by the seconds of one item, b."),
        ]
        what = f"a {a:g} s, b {b:g} s, {p} ranks, a speedup of {s:g}"
        yield Case(what, partial(answer, a, b, p, s), a * (s - 1) / (b * (1 - s / p)), mistakes)


def first_free(answer: Callable[..., Any]) -> Result:
    """`answer(durations, workers)`: seconds until all tasks are done, if whoever is free first takes the next one."""
    hint = "keep when each worker is free; a task goes to the smallest of these times. The answer is the largest."
    return examine("first_free", answer, _schedules(answer), hint)


def _schedules(answer: Any) -> Iterator[Case]:
    for tasks, workers in (([1.0, 1.0, 4.0, 3.0, 6.0], 2), ([1.0, 1.0, 3.0, 1.0, 1.0, 5.0], 3), ([2.0, 3.0], 4)):
        block = -(-len(tasks) // workers)
        static = max(sum(tasks[i::workers]) for i in range(workers))
        blocks = max(sum(tasks[i : i + block]) for i in range(0, len(tasks), block))
        mistakes = [
            (sum(tasks) / workers, "shared as if tasks could be cut. They cannot."),
            (static, "task i goes to worker i % workers before anything has run: the static schedule."),
            (blocks, "each worker gets a block of tasks before anything has run: the static schedule."),
            (makespan(sorted(tasks, reverse=True), workers), "longest first: here tasks are taken in the order given."),
            (sum(tasks), "one worker's time."),
        ]
        what = f"tasks of {', '.join(f'{t:g}' for t in tasks)} s, {workers} workers"
        yield Case(what, partial(answer, list(tasks), workers), makespan(tasks, workers), mistakes)


def makespan(durations: Sequence[float], workers: int) -> float:
    """Seconds until all tasks are done, each taken in order by whoever is free first."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)
