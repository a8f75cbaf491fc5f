"""When is a dense layer the better buy? Held-out loss of a mixture of experts and of two dense models, by steps.

    python benchmarks/experts_against_dense.py

Writes data/recorded/experts_against_dense.csv, which notebook 27 shows. One dense model has the mixture's FLOPs per
token, the other its parameters. Every point is a training of its own (the learning rate falls to 0 at its end), with
the best learning rate of its own: the grid is walked until the best has a worse one on each side. Then two more seeds.
About twenty minutes on one core. Runs that the file has already are not repeated: delete it to begin anew. In a minute,
to see that it works: --steps 32 --csv short.csv
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tuning import open_runs, tuned, write_runs

import llmlab as lab
from llmlab import evaluate
from llmlab.text import batches, split

TARGET = Path(__file__).parents[1] / "data" / "recorded" / "experts_against_dense.csv"
BATCH, SEQ, EXPERTS = 16, 48, 8
DENSE = lab.Config(vocab_size=256, d_model=48, n_layer=2, n_head=4, d_ff=96, max_seq=SEQ, position="rotary", bias=False)
MODELS = {  # name: its config, steps of each training
    "8 experts, 1 for each token": (
        replace(DENSE, n_expert=EXPERTS, n_expert_active=1, balance_loss=0.01),
        (256, 512),
    ),
    "dense, the same FLOPs": (DENSE, (256, 512, 1024)),
    "dense, the same parameters": (replace(DENSE, d_ff=EXPERTS * DENSE.d_ff), (256, 512)),
}
COLUMNS = ("model", "parameters", "flops_per_token", "steps", "lr", "seed", "loss")


def train(config: lab.Config, rows: Any, valid: Any, steps: int, lr: float, seed: int) -> float:
    """Train for so many steps; give the loss on documents that were held out."""
    model = lab.Transformer(config, seed=seed)
    optimizer = lab.optim.AdamW(model.parameters(), lr=lr)
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.warm_up(16, lab.optim.cosine(steps - 16)))
    for tokens, targets in islice(batches(rows, BATCH, SEQ, seed=seed, epochs=None), steps):
        model.loss(tokens, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return evaluate.mean_loss(model, valid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", help="of every model, in place of each one's own")
    parser.add_argument("--csv", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = split(lab.text.load("python", max_bytes=2_000_000), valid=0.03)
    rows, held_out = ([list(document.encode()) for document in part] for part in parts)
    valid = list(islice(batches(held_out, 32, SEQ, seed=1), 16))
    done = open_runs(options.csv, COLUMNS, ("model", "steps", "lr", "seed"))

    def final(name: str, steps: int, lr: float, seed: int = 0) -> float:
        run, (config, _) = (name, str(steps), str(lr), str(seed)), MODELS[name]
        if run not in done:
            done[run] = train(config, rows, valid, steps, lr, seed)
            size = config.n_param, config.flops_per_token()
            write_runs(options.csv, [(name, *size, *run[1:], f"{done[run]:.4f}")])
        return done[run]

    for name, (_, own) in MODELS.items():
        for steps in options.steps or own:
            best = tuned(lambda lr, name=name, steps=steps: final(name, steps, lr))
            for seed in (1, 2):
                final(name, steps, best, seed)


if __name__ == "__main__":
    main()
