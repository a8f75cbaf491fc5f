"""How fast the simulator is: rank-operations a second, and the seconds of a few programs.

    python benchmarks/simulator.py [runs]       (run_all.py keeps them)

A rank-operation is one rank's side of one collective, here of four numbers. Each program runs `runs` times (default 7)
after one that is not counted; of the wall's and the processor's seconds the median is printed, and the least: on a
machine that does other things at the same time only the processor's say something about the program.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from racing import where

import llmlab as lab

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


def train_in_turn(ranks):
    """What those ranks compute, one rank after another, and nobody simulates it."""
    tokens = torch.zeros(1, 64, dtype=torch.long)
    for _ in range(ranks):
        model = lab.Transformer(CONFIG)
        optimizer = lab.optim.AdamW(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            model.loss(tokens, tokens).backward()
            optimizer.step()


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
    "the numbers alone of that, no simulator": (lambda: train_in_turn(256), 0, 7),
}  # fmt: skip


def main(runs: int = 7) -> None:
    print(f"on {where()}")
    for name, (program, operations, most) in PROGRAMS.items():
        walls, processor = measured(program, min(runs, most))
        rate = f", {operations / min(processor):,.0f} rank-operations a second of it" if operations else ""
        took = f"{statistics.median(walls):.3g} s, processor {statistics.median(processor):.3g} s"
        print(f"MEASURED  {name}: {took}, at least {min(processor):.3g} s{rate}", flush=True)


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
