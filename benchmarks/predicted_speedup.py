"""Predicted and measured speedup of data, tensor and pipeline parallelism on two processes of this machine, in one run.

    python benchmarks/predicted_speedup.py [--rounds 15] [--layers 6] [--width 384]

The closed form gets this machine's measured rates (`this_machine`) and is calibrated with one measured row: a step of
one process while its neighbour takes the same step by itself, because cores share memory bandwidth and clock. From
there it predicts the steps of two processes. All are timed in turns within the run; ratios of neighbours are compared.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from statistics import median
from typing import Any

import torch
from racing import print_seconds, ratios, read_options, spread, take_turns, where

import llmlab as lab
from llmlab.hardware import this_machine

BATCH, SEQ, MICROBATCHES = 8, 128, 4
LAYOUTS = {
    "data": lab.Layout(dp=2),
    "tensor": lab.Layout(tp=2),
    "pipeline": lab.Layout(pp=2, microbatches=MICROBATCHES),
}
ALONE, BESIDE = "one process", "one process, the other core at the same"
WITHIN = 0.15


def race(world: Any, config: lab.Config, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns."""
    batch = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    tokens, targets = batch[:, :-1], batch[:, 1:]
    adam = partial(torch.optim.AdamW, lr=1e-4)
    single = lab.parallelize(lab.Transformer(config), adam, lab.Layout(), itself(world))
    ways = {ALONE: partial(single, tokens, targets), BESIDE: partial(single, tokens, targets)}
    for name, layout in LAYOUTS.items():
        step = lab.parallelize(lab.Transformer(config), adam, layout, world)
        ways[name] = partial(step, tokens, targets)
    return take_turns(world, ways, rounds, alone=[ALONE])


def itself(world: Any) -> Any:
    """A group of this rank alone: a world in which one process trains by itself."""
    return lab.Mesh(world, each=world.size, one=1)["one"]


def predictions(config: lab.Config, seconds: float) -> dict[str, float]:
    """Predicted seconds of a step of two processes, after calibrating with one of one process."""
    machine, sizes = this_machine(), {"global_batch": BATCH, "seq": SEQ, "precision": "fp32"}
    # nobody takes the traffic off a core's hands: it is not hidden
    start = dataclasses.replace(lab.cost.stack.stack("llmlab"), overlap_gradients=False)
    own = lab.calibrate(machine, lab.Measured(config, lab.Layout(), seconds, **sizes), start)
    return {name: lab.predict(config, layout, machine, stack=own, **sizes).seconds for name, layout in LAYOUTS.items()}


def main() -> None:
    options = read_options(__doc__, rounds=15, layers=6, width=384)
    config = lab.Config(vocab_size=2048, d_model=options.width, n_layer=options.layers, n_head=8, max_seq=SEQ)
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32; on {where()}\n")
    seconds = print_seconds(lab.Processes(2, timeout_s=900).run(race, config, options.rounds))
    modelled = predictions(config, median(seconds[BESIDE]))
    for name, predicted in modelled.items():
        measured = ratios(seconds, ALONE, name)
        speedup = median(seconds[ALONE]) / predicted
        off = speedup / median(measured) - 1
        verdict = "within" if abs(off) <= WITHIN else "NOT within"
        print(f"MEASURED  speedup, {name:<9} {spread(measured)}")
        print(f"MODELLED  speedup, {name:<9} {speedup:.3f}, {off:+.1%} off: {verdict} {WITHIN:.0%}")


if __name__ == "__main__":
    main()
