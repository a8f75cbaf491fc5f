"""Several ways to do the same thing, timed in turns within one run: what else the machine does hits all alike.

In this process (`race`), or on several ranks (`take_turns`); and how a benchmark is called and how it prints.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Tensor

import llmlab as lab
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
                print(f"MEASURED  {ours} over {name}, wall clock   {spread(ratios(self.wall, name, ours))}")
                print(f"MEASURED  {ours} over {name}, processor    {spread(ratios(self.processor, name, ours))}")


def race(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2, first: bool = False) -> Race:
    """Do each way once a round, beginning with another one each round; the first rounds do not count.

    first: each turn runs before all else on the machine, and after one that does not count, as in `take_turns`.
    """
    names = list(ways)
    result = Race({name: [] for name in names}, {name: [] for name in names})
    for i in range(-warm_up, rounds):
        begins = i % len(names)
        for name in names[begins:] + names[:begins]:
            time.sleep(0.1 if first else 0.0)  # others have their turn, too
            with before_all_else(first):
                if first:
                    ways[name]()
                wall, processor = time.perf_counter(), time.process_time()
                ways[name]()
                wall, processor = time.perf_counter() - wall, time.process_time() - processor
            if i >= 0:
                result.wall[name].append(wall)
                result.processor[name].append(processor)
    return result


def take_turns(
    world: lab.Group,
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    alone: Collection[str] = (),
    first: bool = False,
) -> dict[str, list[float]]:
    """Seconds of each way, round by round, of the slowest rank from a barrier on. Every rank calls this.

    Those named `alone` rank 0 does, while the others wait. The order turns round every round; three rounds warm up.
    first: each turn runs before all else on the machine (see `before_all_else`), and after one that does not count, for
    what runs in between leaves nothing in the caches; one round warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(-1 if first else -3, rounds):
        for name in list(ways) if i % 2 else list(ways)[::-1]:
            time.sleep(0.1 if first else 0.0)  # others have their turn, too
            world.barrier()
            with before_all_else(first):
                for _ in range(1 + first):
                    world.barrier()
                    start = world.clock()
                    if name not in alone or world.rank == 0:
                        ways[name]()
                slowest = world.all_reduce(torch.tensor([world.clock() - start]), "max").item()
            if i >= 0:
                seconds[name].append(slowest)
    return seconds


@contextlib.contextmanager
def before_all_else(wanted: bool = True) -> Iterator[None]:
    """Give this process real-time priority (it wants root), so that a busy machine's other work waits meanwhile."""
    for policy in (os.SCHED_FIFO, os.SCHED_OTHER):
        for thread in os.listdir("/proc/self/task") if wanted else ():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread), policy, os.sched_param(int(policy == os.SCHED_FIFO)))
        if policy == os.SCHED_FIFO:
            yield


def check_same(name: str, got: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Raise where a way computed something else, beyond this share of the norm: its seconds would say nothing."""
    apart = ((got - wanted).norm() / wanted.norm()).item()
    if not apart <= tolerance:  # nan is no agreement
        raise AssertionError(f"{name} differs by {apart:.1e} of the norm, more than {tolerance:.1e}")


def ratios(seconds: Mapping[str, Sequence[float]], slower: str, faster: str) -> list[float]:
    """How many times as fast, round by round: ratios of neighbours hold where seconds do not."""
    return [a / b for a, b in zip(seconds[slower], seconds[faster], strict=True)]


def spread(values: Sequence[float], unit: str = "") -> str:
    """Say the median and the quartiles. No unit: ratios of pairs."""
    low, middle, high = (f"{value:,.3f}" if value < 100 else f"{value:,.0f}" for value in quantiles(values, n=4))
    return f"{middle} {unit and unit + ' '}(quartiles {low} to {high}, {len(values)} {'runs' if unit else 'pairs'})"


def print_seconds(run: lab.Run, what: str = "seconds a step") -> dict[str, list[float]]:
    """Print the median of each way that took turns in this run, and give the seconds back."""
    seconds = run.results[0]
    print(f"MEASURED  on {run.hardware}")
    for name, taken in seconds.items():
        print(f"MEASURED  {what}, {name:<22}{median(taken):>9.4f}")
    return seconds


def where() -> str:
    """Say what this runs on, and how busy it is where the machine tells."""
    load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    threads = torch.get_num_threads()
    return f"{describe_machine()}, {threads} thread{'s' if threads > 1 else ''}{load}"


def read_options(about: str | None, **defaults: int) -> argparse.Namespace:
    """Read --name NUMBER for each of these names from the command line; --help prints what the benchmark is about."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()
