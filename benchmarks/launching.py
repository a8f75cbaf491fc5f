"""How long ranks take to start and to talk on this machine: medians over n repeats, with the load while measuring.

python benchmarks/launching.py            # about a minute; set OMP_NUM_THREADS=1 for figures like the README's
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from llmlab.comm.processes import Processes

FIRST = """
import time, torch
from llmlab.comm.processes import Processes
def worker(world):
    world.all_reduce(torch.ones(1))
    return time.monotonic()
start = time.monotonic()
print(max(Processes(4).run(worker).results) - start)
"""


def first_collective(world):
    """The moment at which this rank's first collective is finished; every process here reads one clock."""
    world.all_reduce(torch.ones(1))
    return time.monotonic()


def nothing(world):
    pass


def milliseconds(measure: Callable[[], float], n: int) -> str:
    times = sorted(1e3 * measure() for _ in range(n))
    return f"{median(times):8.2f} ms   (fastest {times[0]:.2f}, slowest {times[-1]:.2f}, n={n})"


def report(name: str, figures: str) -> None:
    print(f"{name:<58}{figures}", flush=True)


def very_first() -> float:
    """In a new interpreter, torch already imported: it starts the nanny, which imports torch itself."""
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True)
    return float(done.stdout)


def fresh(ranks: int) -> float:
    start = time.monotonic()
    return max(Processes(ranks).run(first_collective).results) - start


def whole_call(ranks: int) -> float:
    start = time.monotonic()
    Processes(ranks).run(nothing)
    return time.monotonic() - start


def live(workers: Processes) -> float:
    start = time.monotonic()
    workers.run(nothing)
    return time.monotonic() - start


def operation(name: str, numel: int, repeats: int) -> Callable[..., float]:
    """A worker that gives seconds per call of one operation."""

    def worker(world):
        x = torch.ones(numel)
        other = 1 - world.rank

        def ping_pong():
            first, second = (world.send, world.recv) if world.rank == 0 else (world.recv, world.send)
            first(x, other), second(x, other)

        calls = {
            "all_reduce_": lambda: world.all_reduce_(x, "avg"),
            "all_gather": lambda: world.all_gather(x),
            "reduce_scatter": lambda: world.reduce_scatter(x),
            "all_to_all": lambda: world.all_to_all([x[: numel // 2], x[numel // 2 :]]),
            "send and back": ping_pong,
            "torch all_reduce": lambda: torch.distributed.all_reduce(x, torch.distributed.ReduceOp.AVG),
        }
        call = calls[name]
        call()
        world.barrier()
        start = world.clock()
        for _ in range(repeats):
            call()
        return (world.clock() - start) / repeats

    return worker


def main() -> None:
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    report("4 ranks, the very first time, to the first collective", milliseconds(very_first, 5))
    Processes(1).run(nothing)
    for ranks in (2, 4, 8):
        report(f"{ranks} fresh ranks to the first finished collective", milliseconds(lambda n=ranks: fresh(n), 15))
        report(f"{ranks} fresh ranks, an empty worker, whole call", milliseconds(lambda n=ranks: whole_call(n), 15))
    for ranks in (2, 4):
        with Processes(ranks) as workers:
            report(f"{ranks} live ranks, an empty worker, whole call", milliseconds(lambda w=workers: live(w), 100))
    with Processes(2) as workers:
        for numel, repeats in ((2, 100), (4_000_000, 5)):
            for name in (
                "torch all_reduce",
                "all_reduce_",
                "all_gather",
                "reduce_scatter",
                "all_to_all",
                "send and back",
            ):
                worker = operation(name, numel, repeats)
                report(
                    f"2 ranks, {name}, {4 * numel:,} bytes",
                    milliseconds(lambda w=worker: max(workers.run(w).results), 7),
                )
    with Processes(2, strict=True) as workers:
        worker = operation("all_reduce_", 2, 100)
        report("2 ranks, all_reduce_, 8 bytes, strict", milliseconds(lambda: max(workers.run(worker).results), 7))
    print(f"load average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
