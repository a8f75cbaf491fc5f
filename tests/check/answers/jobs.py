"""Several jobs on one cluster: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.jobs import fills_hole, first_come_starts, mean_response


def starts_right(jobs, ranks):
    free_at, starts, ahead = [0.0] * ranks, [], 0.0
    for wanted, seconds in jobs:
        free_at.sort()
        ahead = max(ahead, free_at[wanted - 1])
        free_at[:wanted] = [ahead + seconds] * wanted
        starts.append(ahead)
    return starts


def in_a_row(jobs, ranks):
    return [float(sum(seconds for _, seconds in jobs[:i])) for i in range(len(jobs))]


def overtaking(jobs, ranks):
    """Place each job where it can start first, whoever came before it."""
    placed = []
    for wanted, seconds in jobs:
        for start in sorted({0.0, *(stop for _, stop, _ in placed)}):
            at_once = [(s, n) for s, stop, n in placed if s < start + seconds and start < stop]
            moments = [max(start, s) for s, _ in at_once] or [start]
            busy = max(sum(n for s, stop, n in placed if s <= moment < stop) if at_once else 0 for moment in moments)
            if busy + wanted <= ranks:
                placed.append((start, start + seconds, wanted))
                break
    return [start for start, _, _ in placed]


def hole_right(free, seconds, waiting):
    started = []
    for i, (ranks, needs) in enumerate(waiting):
        if ranks <= free and needs <= seconds:
            started.append(i)
            free -= ranks
    return started


def each_alone(free, seconds, waiting):
    return [i for i, (ranks, needs) in enumerate(waiting) if ranks <= free and needs <= seconds]


def stops_early(free, seconds, waiting):
    started = []
    for i, (ranks, needs) in enumerate(waiting):
        if ranks > free or needs > seconds:
            break
        started.append(i)
        free -= ranks
    return started


def shortest_first(free, seconds, waiting):
    order = sorted(range(len(waiting)), key=lambda i: waiting[i][1])
    taken = hole_right(free, seconds, [waiting[i] for i in order])
    return sorted(order[i] for i in taken)


RIGHT = [
    (first_come_starts, starts_right),
    (fills_hole, hole_right),
    (mean_response, lambda n, k, a, b, p: (n / k + 1) / 2 * (a + b * k / p)),
]
WRONG = [
    (first_come_starts, overtaking, "has overtaken"),
    (first_come_starts, in_a_row, "one job after another"),
    (first_come_starts, lambda jobs, ranks: [0.0] * len(jobs), "all start at once"),
    (first_come_starts, lambda jobs, ranks: starts_right(jobs[::-1], ranks)[::-1], "never before the job ahead"),
    (fills_hole, lambda free, seconds, waiting: hole_right(free, float("inf"), waiting), "past the hole"),
    (fills_hole, each_alone, "not all together"),
    (fills_hole, shortest_first, "shortest first"),
    (fills_hole, stops_early, "stopped at the first"),
    (mean_response, lambda n, k, a, b, p: n / k * (a + b * k / p), "when the last one ends"),
    (mean_response, lambda n, k, a, b, p: n / k / 2 * (a + b * k / p), "half of the last end"),
    (mean_response, lambda n, k, a, b, p: a + b * k / p, "one job's own time"),
    (mean_response, lambda n, k, a, b, p: (n / k + 1) / 2 * (a + b / p), "each job has all ranks"),
]
