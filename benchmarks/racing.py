"""Two or more ways to do the same thing, timed in turns within one run, so that what else the machine does hits all."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from itertools import islice, cycle
from statistics import median, quantiles

import torch

Seconds = dict[str, list[float]]


def race(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> tuple[Seconds, Seconds]:
    """Do each way once a round, in another order every round. Give wall-clock and processor seconds of each, by round."""
    names = list(ways)
    wall: Seconds = {name: [] for name in names}
    processor: Seconds = {name: [] for name in names}
    for round_ in range(-warm_up, rounds):
        for name in islice(cycle(names), round_ % len(names), round_ % len(names) + len(names)):
            start = time.perf_counter(), time.process_time()
            ways[name]()
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            if round_ >= 0:
                wall[name].append(taken[0])
                processor[name].append(taken[1])
    return wall, processor


def report(ours: str, wall: Seconds, processor: Seconds) -> None:
    """Print each way's median time, and how many times as fast `ours` is: the median of the paired ratios and its spread."""
    for name in wall:
        print(f"MEASURED  {name:<34}{1e3 * median(wall[name]):9.2f} ms   processor {1e3 * median(processor[name]):9.2f} ms")
    for name in wall:
        if name != ours:
            ratios = {what: ratio(seconds, name, ours) for what, seconds in (("wall clock", wall), ("processor", processor))}
            for what, values in ratios.items():
                print(f"MEASURED  {ours} over {name}, {what:<10}  {spread(values)}")


def ratio(seconds: Seconds, theirs: str, ours: str) -> list[float]:
    return [a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True)]


def spread(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.2f} times as fast (quartiles {low:.2f} to {high:.2f}, {len(values)} pairs)"


def machine() -> str:
    """Say what this ran on."""
    return (
        f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used, torch {torch.__version__}, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"
    )
