"""Ranks that talk rarely, trained for longer: held-out loss of local SGD and DiLoCo beside one process, same tokens.

    python benchmarks/low_communication.py

Writes data/recorded/low_communication.csv, which notebook 28 shows. Every method gets its own learning rate: the grid
is walked until the best has a worse one on each side, and DiLoCo's outer rate is chosen too. The best of each then
runs from two more seeds. About an hour on one core. Runs that the file has already are not repeated: delete it to begin
anew. In a minute, to see that it works: --until 64 --methods "one process" "DiLoCo, H = 64" --csv short.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tuning import open_runs, tuned, write_runs

import llmlab as lab
from llmlab import evaluate
from llmlab.parallel.local_sgd import diloco, local_sgd
from llmlab.text import batches, split

TARGET = Path(__file__).parents[1] / "data" / "recorded" / "low_communication.csv"
CONFIG = lab.Config(vocab_size=256, d_model=32, n_layer=2, n_head=4, max_seq=48, position="rotary", bias=False)
RANKS, ROWS, WARM_UP, STEPS = 4, 16, 32, (64, 128, 256, 512, 768)
COLUMNS = ("method", "every", "outer_lr", "lr", "seed", "step", "loss")
METHODS = {  # name: steps between two meetings, outer learning rates
    "one process": (1, (0.0,)),
    "a quarter alone": (1, (0.0,)),
    "local SGD, H = 8": (8, (0.0,)),
    "local SGD, H = 64": (64, (0.0,)),
    "DiLoCo, H = 8": (8, (0.1, 0.3, 0.7)),
    "DiLoCo, H = 64": (64, (0.3, 0.7)),
}


def meeting(name: str, optimizer: torch.optim.Optimizer, world: Any, outer_lr: float) -> torch.optim.Optimizer:
    every, _ = METHODS[name]
    if name.startswith("local SGD"):
        return local_sgd(optimizer, world, every=every)
    if name.startswith("DiLoCo"):
        return diloco(optimizer, world, every, lambda ps: lab.optim.SGD(ps, lr=outer_lr, momentum=0.9, nesterov=True))
    return optimizer


def train(
    world: Any, name: str, data: Any, valid: Any, steps: Sequence[int], outer_lr: float, lr: float, seed: int
) -> list[float]:
    """Train on this rank's rows; give the held-out loss at each of `steps`, which are all just after a meeting."""
    parts = 1 if name == "one process" else RANKS
    model, losses = lab.Transformer(CONFIG, seed=seed), []
    optimizer = meeting(name, lab.optim.AdamW(model.parameters(), lr=lr), world, outer_lr)
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.warm_up(WARM_UP, lab.optim.cosine(STEPS[-1] - WARM_UP)))
    for step, (tokens, targets) in enumerate(islice(data, steps[-1]), 1):
        model.loss(tokens[world.rank :: parts], targets[world.rank :: parts]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step in steps and world.rank == 0:
            losses.append(evaluate.mean_loss(model, valid))
    return losses


def tune(name: str, final: Callable[..., float]) -> None:
    """Run a method with the learning rates that the walk asks for, then the best of them from two more seeds."""
    best = []
    for outer_lr in METHODS[name][1]:
        lr = tuned(lambda lr, outer_lr=outer_lr: final(name, outer_lr, lr, 0))
        best.append((final(name, outer_lr, lr, 0), outer_lr, lr))
    _, outer_lr, lr = min(best)
    for seed in (1, 2):
        final(name, outer_lr, lr, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--until", type=int, default=STEPS[-1], choices=STEPS, help="the last step of each run")
    parser.add_argument("--csv", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = split(lab.text.load("python", max_bytes=1_500_000), valid=0.03)
    rows, held_out = ([list(document.encode()) for document in part] for part in parts)
    valid = list(islice(batches(held_out, 32, CONFIG.max_seq, seed=1), 16))
    steps = [step for step in STEPS if step <= options.until]
    done = open_runs(options.csv, COLUMNS, ("method", "outer_lr", "lr", "seed"))

    def final(name: str, outer_lr: float, lr: float, seed: int) -> float:
        run = name, str(outer_lr), str(lr), str(seed)
        if run not in done:
            data = batches(rows, ROWS, CONFIG.max_seq, seed=seed, epochs=None)
            every, _ = METHODS[name]
            simulator = lab.Simulator(1 if every == 1 else RANKS, kernels=False)
            losses = simulator.run(train, name, data, valid, steps, outer_lr, lr, seed).results[0]
            points = zip(steps, losses, strict=True)
            write_runs(options.csv, [(name, every, *run[1:], step, f"{loss:.4f}") for step, loss in points])
            done[run] = losses[-1]
        return done[run]

    for name in options.methods:
        tune(name, final)


if __name__ == "__main__":
    main()
