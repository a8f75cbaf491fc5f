"""Several ways to do the same thing, timed in turns within one run: what else the machine does hits all alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch

from llmlab.hardware import describe_machine


@dataclass(frozen=True)
class Race:
    """Seconds of each way, round by round: by the clock on the wall, and of the processor, which waits for nobody."""

    wall: dict[str, list[float]]
    processor: dict[str, list[float]]

    def report(self, ours: str) -> None:
        """Print what each took, and how many times as fast `ours` was: the median of the rounds, and quartiles."""
        for name in self.wall:
            wall, processor = (f"{1e3 * median(taken[name]):.2f} ms" for taken in (self.wall, self.processor))
            print(f"MEASURED  {name:<36}{wall:>12}   processor {processor:>12}")
        for name in self.wall:
            if name != ours:
                print(f"MEASURED  {ours}, beside {name}")
                print(f"              wall clock   {spread(self.wall[name], self.wall[ours])}")
                print(f"              processor    {spread(self.processor[name], self.processor[ours])}")


def race(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> Race:
    """Do each way once a round, beginning with another one each round; the first rounds do not count."""
    names = list(ways)
    result = Race({name: [] for name in names}, {name: [] for name in names})
    for i in range(-warm_up, rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            wall, processor = time.perf_counter(), time.process_time()
            ways[name]()
            if i >= 0:
                result.wall[name].append(time.perf_counter() - wall)
                result.processor[name].append(time.process_time() - processor)
    return result


def spread(theirs: list[float], ours: list[float]) -> str:
    low, middle, high = quantiles([a / b for a, b in zip(theirs, ours, strict=True)], n=4)
    return f"{middle:.2f} times as fast (quartiles {low:.2f} to {high:.2f}, {len(ours)} pairs)"


def where() -> str:
    """Say what this ran on, and how busy it was."""
    return f"{describe_machine()}, {torch.get_num_threads()} threads; load average {os.getloadavg()[0]:.1f}"
