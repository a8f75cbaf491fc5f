"""Exercises of notebook 13: several jobs on one cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine
from llmlab.parallel.jobs import Job, backfill, first_come

Sizes = list[tuple[int, float]]  # (ranks, seconds) of each job, in the order of arrival


def first_come_starts(answer: Callable[..., Any]) -> Result:
    """`answer(jobs, ranks)`: when each job starts, first come, first served, all being there at 0 s.

    jobs: (ranks, seconds) of each, in the order of arrival.
    """
    hint = "a job starts at the first moment at which its ranks are free, and never before the job ahead of it."
    return examine("first_come_starts", answer, _starts(answer), hint)


def _starts(answer: Any) -> Iterator[Case]:
    queues: list[Sizes] = [
        [(3, 6.0), (4, 1.0), (1, 4.0)],
        [(2, 5.0), (1, 2.0), (2, 3.0), (1, 1.0)],
        [(1, 4.0), (4, 2.0), (4, 3.0), (2, 1.0), (3, 1.0)],
    ]
    for queue in queues:
        jobs = [Job(str(i), ranks, seconds) for i, (ranks, seconds) in enumerate(queue)]
        mistakes = [
            (list(backfill(jobs, 4).waits.values()), "a job has overtaken one before it: that is backfill."),
            (
                [sum(seconds for _, seconds in queue[:i]) for i in range(len(queue))],
                "one job after another: those that fit side by side run side by side.",
            ),
            ([0.0] * len(queue), "all start at once: there are only so many ranks; wait until enough are free."),
        ]
        what = f"{_said(queue)} on 4 ranks"
        yield Case(what, partial(answer, list(queue), 4), list(first_come(jobs, 4).waits.values()), mistakes)


def fills_hole(answer: Callable[..., Any]) -> Result:
    """`answer(free, seconds, waiting)`: which waiting jobs start now, in a hole that nobody may make longer.

    So many ranks are free for so many seconds; then the job at the head of the queue needs them. waiting: (ranks,
    seconds) of the others, in the order of arrival, which is the order of their claims. The answer: their places in it.
    """
    hint = "go through them in order: one starts if its ranks are still free and it ends in time; then they are taken."
    return examine("fills_hole", answer, _holes(answer), hint)


def _holes(answer: Any) -> Iterator[Case]:
    cases: list[tuple[int, float, Sizes]] = [
        (2, 4.0, [(1, 6.0), (1, 3.0), (2, 2.0), (1, 4.0)]),
        (3, 5.0, [(4, 1.0), (2, 5.0), (2, 1.0), (1, 7.0), (1, 2.0)]),
        (1, 2.0, [(1, 3.0), (2, 1.0), (1, 2.0), (1, 1.0)]),
    ]
    for free, seconds, waiting in cases:
        places = range(len(waiting))
        in_time = [i for i in places if waiting[i][0] <= free and waiting[i][1] <= seconds]
        by_length = sorted(places, key=lambda i: waiting[i][1])
        mistakes = [
            (_taken(free, float("inf"), waiting, places), "one runs on past the hole: the head of the queue waits."),
            (in_time, "each fits alone, not all together: the first one's ranks are not free any more."),
            (sorted(_taken(free, seconds, waiting, by_length)), "shortest first: claims go by the order of arrival."),
            (_until_first(in_time, waiting), "stopped at the first that does not fit: a later one may overtake it."),
        ]
        what = f"{free} ranks free for {seconds:g} s, waiting {_said(waiting)}"
        run = partial(answer, free, seconds, list(waiting))
        yield Case(what, run, _taken(free, seconds, waiting, places), mistakes)


def _taken(free: int, seconds: float, waiting: Sizes, order: Any) -> list[int]:
    started = []
    for i in order:
        if waiting[i][0] <= free and waiting[i][1] <= seconds:
            started.append(i)
            free -= waiting[i][0]
    return started


def _until_first(in_time: list[int], waiting: Sizes) -> list[int]:
    return [i for i in in_time if all(j in in_time for j in range(i))]


def mean_response(answer: Callable[..., Any]) -> Result:
    """`answer(jobs, side_by_side, a, b, ranks)`: mean seconds until a job ends, of equal jobs that all wait at 0 s.

    So many run at a time, each on its equal share of the ranks, where it takes a + b / (its ranks) seconds; both
    `jobs` and `ranks` divide by `side_by_side`.
    """
    hint = "group g of jobs / side_by_side groups ends at g times the time of one: what is the mean of 1 .. that many?"
    return examine("mean_response", answer, _means(answer), hint)


def _means(answer: Any) -> Iterator[Case]:
    for n, k, a, b, p in ((4, 2, 1.0, 8.0, 4), (8, 4, 0.5, 16.0, 8), (6, 1, 2.0, 6.0, 3)):
        groups, each = n / k, a + b * k / p
        mistakes = [
            (groups * each, "when the last one ends: the first group's owners saw theirs end earlier."),
            (groups / 2 * each, "half of the last end: the mean of 1, 2 .. m is (m + 1) / 2."),
            (each, "one job's own time: it waits for the groups ahead of it."),
            (
                (groups + 1) / 2 * (a + b / p),
                "each job has all ranks: side by side it has ranks / side_by_side of them.",
            ),
        ]
        what = f"{n} jobs, {k} at a time, a {a:g} s, b {b:g} s, {p} ranks"
        yield Case(what, partial(answer, n, k, a, b, p), (groups + 1) / 2 * each, mistakes)


def _said(queue: Sizes) -> str:
    return ", ".join(f"{ranks} for {seconds:g} s" for ranks, seconds in queue)
