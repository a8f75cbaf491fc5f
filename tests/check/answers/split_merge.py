"""Splitting work and putting the parts together again: right answers, and wrong ones with their hints."""

from __future__ import annotations

import heapq

import torch

from llmlab.check.split_merge import amdahl, first_free, mean_of_parts, serial_share, split_evenly, work_for_speedup


def mean_right(world, part):
    return world.all_reduce(part.sum()) / world.all_reduce(torch.tensor(float(len(part)), dtype=torch.float64))


def split_right(n, workers):
    return [n // workers + (i < n % workers) for i in range(workers)]


def first_free_right(durations, workers):
    free = [0.0] * workers
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def blocks(durations, workers):
    length = -(-len(durations) // workers)
    return max(sum(durations[i : i + length]) for i in range(0, len(durations), length))


RIGHT = [
    (mean_of_parts, mean_right),
    (split_evenly, split_right),
    (amdahl, lambda s, p: 1 / (s + (1 - s) / p)),
    (serial_share, lambda speedup, p: (1 / speedup - 1 / p) / (1 - 1 / p)),
    (first_free, first_free_right),
    (work_for_speedup, lambda a, b, p, s: a * (s - 1) * p / (b * (p - s))),
]
WRONG = [
    (mean_of_parts, lambda world, part: world.all_reduce(part.mean()) / world.size, "mean of the parts' means"),
    (mean_of_parts, lambda world, part: world.all_reduce(part.sum()) / world.size, "number of parts, M"),
    (mean_of_parts, lambda world, part: part.mean(), "each rank's own mean"),
    (mean_of_parts, lambda world, part: world.all_reduce(part.sum()), "how many numbers"),
    (split_evenly, lambda n, workers: [n // workers] * workers, "the remainder is lost"),
    (split_evenly, lambda n, w: [n // w] * (w - 1) + [n // w + n % w], "one worker gets the whole remainder"),
    (split_evenly, lambda n, w: split_right(n, w)[::-1], "the longer ones come first"),
    (split_evenly, lambda n, w: [max(0, min(-(-n // w), n - i * -(-n // w))) for i in range(w)], "rounded up"),
    (amdahl, lambda s, p: s + (1 - s) / p, "the time, as a share"),
    (amdahl, lambda s, p: s + (1 - s) * p, "Gustafson's law"),
    (amdahl, lambda s, p: 1 / (1 - s + s / p), "wrong way round"),
    (amdahl, lambda s, p: 1 / s, "infinitely many"),
    (amdahl, lambda s, p: p, "which of the two do the workers shorten"),
    (serial_share, lambda speedup, p: speedup / p, "the efficiency, speedup"),
    (serial_share, lambda speedup, p: 1 - speedup / p, "lost efficiency"),
    (serial_share, lambda speedup, p: 1 / speedup, "takes the parallel part to cost nothing"),
    (work_for_speedup, lambda a, b, p, s: a * s / (b * (1 - s / p)), "both sides"),
    (work_for_speedup, lambda a, b, p, s: a * (s - 1) / b, "their share to compute"),
    (work_for_speedup, lambda a, b, p, s: a * (s - 1) / (1 - s / p), "seconds, not items"),
    (first_free, lambda durations, workers: sum(durations) / workers, "as if tasks could be cut"),
    (first_free, lambda durations, workers: max(sum(durations[i::workers]) for i in range(workers)), "i % workers"),
    (first_free, lambda durations, workers: first_free_right(sorted(durations)[::-1], workers), "longest first"),
    (first_free, lambda durations, workers: sum(durations), "one worker's time"),
    (first_free, blocks, "a block of tasks"),
]
