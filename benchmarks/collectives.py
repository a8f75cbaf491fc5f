"""Shared memory beside gloo, and beside the least that either must do: all-reduces by size, and a DDP step.

    python benchmarks/collectives.py [--rounds 9] [--alone 1] [--write 1]

Both are process groups of the same ranks; they take turns within one run, in both orders, and a ratio is the median of
the rounds' ratios. The least: of an all-reduce the copies that two ranks cannot do without, on all ranks at once (write
x where the other sees it, add the other's to it); of a step its computation. --alone 1 pins each rank to a core and
gives it real-time priority while it is timed (it wants root), so that a busy machine's other work waits for some tenths
of a second; --write 1 keeps the figures in data/measured/collectives.csv.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.distributed as dist
from racing import before_all_else, ratios, read_options, where

import llmlab as lab
from llmlab.hardware import describe_machine

FILE = Path(__file__).parents[1] / "data" / "measured" / "collectives.csv"
BYTES = (8, 4 << 10, 64 << 10, 1 << 20, 8 << 20, 32 << 20)
WIDTHS = (64, 512)  # of the 8 layers that DDP trains
Ways = dict[str, Callable[[], object]]


def pin(world: lab.Group) -> None:
    """Keep this rank, and the threads of its transports, on one core."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {world.rank % (os.cpu_count() or 1)})


def take_turns(world: lab.Group, ways: Ways, repeats: int, rounds: int, alone: bool) -> dict[str, list[float]]:
    """Seconds of one repeat, of the slowest rank, round by round; each way warms up before each of its turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        time.sleep(0.2 if alone else 0.0)  # others have their turn, too
        world.barrier()
        with before_all_else(alone):
            for name in list(ways) if i % 2 else list(ways)[::-1]:
                for _ in range(repeats):
                    ways[name]()
                world.barrier()
                start = time.perf_counter()
                for _ in range(repeats):
                    ways[name]()
                taken = torch.tensor([(time.perf_counter() - start) / repeats])
                seconds[name].append(world.all_reduce(taken, "max").item())
    return seconds


def reduce_all(world: lab.Group, rounds: int, alone: bool) -> dict[int, dict[str, list[float]]]:
    """The worker: all-reduces of each size, each way."""
    groups = {"gloo": dist.new_group(backend="gloo"), "shared": dist.group.WORLD}
    if alone:
        pin(world)
    found = {}
    for nbytes in BYTES:
        x, y, z = torch.zeros(3, nbytes // 4).unbind()

        def least(x=x, y=y, z=z) -> None:
            y.copy_(x)
            torch.add(x, z, out=x)

        ways: Ways = {name: lambda x=x, group=group: dist.all_reduce(x, group=group) for name, group in groups.items()}
        repeats = 300 if nbytes < 1 << 18 else 20 if nbytes < 1 << 22 else 2
        found[nbytes] = take_turns(world, ways | {"least": least}, repeats, rounds, alone)
    return found


def step_ddp(world: lab.Group, rounds: int, alone: bool) -> dict[int, dict[str, list[float]]]:
    """The worker: forward and backward of torch's DDP in buckets of 1 MB, each way, and without an all-reduce."""
    groups = {"gloo": dist.new_group(backend="gloo"), "shared": dist.group.WORLD}
    if alone:
        pin(world)
    found = {}
    for width in WIDTHS:
        ways: Ways = {}
        for name, group in groups.items():
            model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(8)])
            ddp = torch.nn.parallel.DistributedDataParallel(model, process_group=group, bucket_cap_mb=1)
            x = torch.randn(8, width)
            ways[name] = lambda ddp=ddp, x=x: ddp(x).pow(2).sum().backward()

        def compute(ddp=ddp, x=x) -> None:
            with ddp.no_sync():
                ddp(x).pow(2).sum().backward()

        ways["least"] = compute
        found[width] = take_turns(world, ways, 5, rounds, alone)
    return found


def rows(what: str, ranks: int, unit: str, found: dict[int, dict[str, list[float]]]) -> Iterator[dict[str, object]]:
    for size, seconds in found.items():
        times = ratios(seconds, "gloo", "shared")
        low, middle, high = quantiles(times, n=4)
        ms = {f"{name}_ms": f"{1e3 * median(taken):.4f}" for name, taken in seconds.items()}
        row = {"what": what, "ranks": ranks, "size": size, "unit": unit} | ms
        row |= {"times_as_fast": f"{middle:.2f}", "low": f"{low:.2f}", "high": f"{high:.2f}", "rounds": len(times)}
        print("MEASURED ", row, flush=True)
        yield row


def main() -> None:
    options = read_options(__doc__, rounds=9, alone=0, write=0)
    how = "each rank pinned to a core, real-time priority while timed" if options.alone else "as it came"
    print(f"{where()}; {how}; 1 thread a rank; a ratio's quartiles are low and high\n")
    table = []
    for ranks in (2, 4):
        run = lab.Processes(ranks, timeout_s=900, transport="shared").run(reduce_all, options.rounds, options.alone)
        table += rows("all_reduce", ranks, "bytes", run.results[0])
    run = lab.Processes(2, timeout_s=900, transport="shared").run(step_ddp, options.rounds, options.alone)
    table += rows("DDP step, 8 layers", 2, "width", run.results[0])
    if options.write:
        about = {"how": how, "threads": 1, "date": date.today().isoformat()}
        about["machine"] = f"{describe_machine()}; load average {os.getloadavg()[0]:.1f}"
        with FILE.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*table[0], *about], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | about for row in table)


if __name__ == "__main__":
    main()
