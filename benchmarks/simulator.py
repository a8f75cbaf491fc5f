"""How fast the simulator is: rank-operations a second, and the seconds of a few programs, recorded.

    python benchmarks/simulator.py [runs]       writes data/measured/simulator.csv

A rank-operation is one rank's side of one collective, here of four numbers. Each program runs `runs` times (default 7)
after one that is not counted; the median and the least are kept, in seconds of the wall and of the processor: on a
machine that does other things at the same time only the latter says something about the program.
"""

from __future__ import annotations

import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch

import llmlab as lab

OUT = Path(__file__).resolve().parents[1] / "data" / "measured" / "simulator.csv"
CONFIG = lab.Config(vocab_size=256, d_model=64, n_layer=4, n_head=4, max_seq=64)


def reduce_again(world, times):
    x = torch.ones(4)
    for _ in range(times):
        x = world.all_reduce(x, "avg")


def train(world, layout, batch):
    step = lab.parallelize(lab.Transformer(CONFIG), lab.optim.AdamW, layout, world)
    tokens = torch.zeros(batch, 64, dtype=torch.long)
    for _ in range(2):
        step(tokens, tokens)


def run(ranks: int, worker: Callable[..., None], *args: object, **options: object) -> Callable[[], object]:
    return lambda: lab.Simulator(ranks, **options).run(worker, *args)


WIDE = lab.Layout(dp=256)
THOUSAND = lab.Layout(dp=64, tp=4, pp=4, microbatches=4)
PROGRAMS = {  # what it is, the rank-operations in it where they are counted, how often at most
    "16 ranks x 100 all-reduces of 4 numbers": (run(16, reduce_again, 100), 1600, 99),
    "1,024 ranks x 10 all-reduces of 4 numbers": (run(1024, reduce_again, 10), 10240, 99),
    "256 ranks, dp, 2 steps, folded by itself": (run(256, train, WIDE, 256, numerics=False, fold="auto"), 0, 99),
    "1,024 ranks, dp 64 x tp 4 x pp 4, 2 steps, folded by itself": (
        run(1024, train, THOUSAND, 256, numerics=False, fold="auto"), 0, 3,
    ),
    "256 ranks, dp, 2 steps, with numbers": (run(256, train, WIDE, 256), 0, 1),
}  # fmt: skip


def main(runs: int = 7) -> None:
    threads = f"{torch.get_num_threads()} thread of torch, shared with other work"
    machine = f"{os.cpu_count()} cores ({platform.machine()}), {threads}"
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    rows = []
    for name, (program, operations, most) in PROGRAMS.items():
        walls, processor = measured(program, min(runs, most))
        rate = round(operations / min(processor)) if operations else ""
        rows.append(
            {
                "program": name, "runs": len(walls), "wall_s": f"{statistics.median(walls):.3g}",
                "least_wall_s": f"{min(walls):.3g}", "processor_s": f"{statistics.median(processor):.3g}",
                "least_processor_s": f"{min(processor):.3g}", "rank_operations_per_processor_s": rate,
                "machine": machine, "versions": versions, "when": when,
            }
        )  # fmt: skip
        print(", ".join(f"{key} {value}" for key, value in list(rows[-1].items())[:7] if value != ""), flush=True)
        write(rows)  # what is measured is kept, whatever happens to the rest


def write(rows: list[dict[str, object]]) -> None:
    with OUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def measured(program: Callable[[], object], runs: int) -> tuple[list[float], list[float]]:
    """Seconds of each run, of the wall and of the processor."""
    walls, processor = [], []
    for i in range(runs + (runs > 1)):
        wall, used = time.perf_counter(), time.process_time()
        program()
        if i or runs == 1:
            walls.append(time.perf_counter() - wall)
            processor.append(time.process_time() - used)
    return walls, processor


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
