"""A parameter server's three ways: held-out loss against virtual time, each with its own learning rates.

    python benchmarks/staleness.py

Three workers, one of them slow or all equal. Writes data/recorded/staleness.csv, which notebook 21 shows: the loss of
the weights that the first worker pulls, averaged over its pulls in the last fifth of each stretch of time, and how many
pushes the server took in all. The order of the batches is drawn twice. Its times are modelled.
"""

from __future__ import annotations

import csv
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import llmlab as lab
from llmlab.comm.group import Group
from llmlab.parallel.server import Server, parameter_server

TARGET = Path(__file__).parents[1] / "data" / "recorded" / "staleness.csv"
SIZES = lab.Config(vocab_size=256, d_model=32, n_layer=1, n_head=4, max_seq=32, dtype=torch.float64)
WAYS = {"synchronous": 0, "at most 2 steps apart": 2, "asynchronous": None}
WORKERS = {"one at a tenth": {3: 0.1}, "equal": {}}
RATES = (0.5, 0.25, 0.12, 0.06, 0.03)
SECONDS = (0.1, 0.2, 0.3)
Batch = tuple[Tensor, Tensor]
Pull = tuple[float, dict[str, Tensor]]  # when, and the weights


def cut(seed: int) -> tuple[list[Batch], Batch]:
    """Give the training batches in this order, and a held-out one from the end of the text."""
    text = "".join(lab.text.load("python", max_bytes=100_000))
    ids = torch.tensor(list(text.encode("utf-8")))
    first, last = ids[:-3073], ids[-3073:]
    tokens, targets = next(iter(lab.text.batches(last, batch=96, seq=32, seed=None)))
    return [(x, y) for x, y in lab.text.batches(first, batch=12, seq=32, seed=seed)], (tokens, targets)


def race(world: Group, batches: list[Batch], staleness: int | None, lr: float) -> list[Pull] | int:
    """Train until the last of SECONDS; a worker gives its pulls, a server how many pushes it took."""
    model = lab.Transformer(SIZES)
    optimizer = parameter_server(model, partial(lab.optim.SGD, lr=lr), world, 1, staleness)
    if isinstance(optimizer, Server):
        return len(optimizer.serve())
    mine = slice(optimizer.workers.rank, None, optimizer.workers.size)
    seen: list[Pull] = []
    while world.clock() < SECONDS[-1]:
        tokens, targets = batches[len(seen)]
        loss = model.loss(tokens[mine], targets[mine])
        loss.backward()
        loss.item()
        optimizer.step()
        optimizer.zero_grad()
        seen.append((world.clock(), {name: value.clone() for name, value in model.state_dict().items()}))
    optimizer.finish()
    return seen


def main() -> None:
    torch.set_num_threads(1)
    model = lab.Transformer(SIZES)
    with TARGET.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["workers", "way", "lr", "order", "seconds", "pushes", "loss"])
        for seed, (workers, speeds), (way, staleness) in product(range(2), WORKERS.items(), WAYS.items()):
            batches, held_out = cut(seed)
            for lr in RATES:
                pushes, seen, *_ = lab.Simulator(4, speeds=speeds).run(race, batches, staleness, lr).results
                losses = []
                for when, state in seen:
                    model.load_state_dict(state)
                    with torch.no_grad():
                        losses.append((when, model.loss(*held_out).item()))
                for until in SECONDS:
                    late = [loss for when, loss in losses if 0.8 * until < when <= until]
                    late = late or [loss for when, loss in losses if when <= until][-1:]
                    out.writerow([workers, way, lr, seed, until, pushes, f"{fmean(late):.2f}"])
                file.flush()


if __name__ == "__main__":
    main()
