"""How many steps a Transformer takes to one held-out loss, at each batch size with the best of its learning rates.

    python benchmarks/critical_batch.py

Writes data/recorded/critical_batch.csv, which notebook 20 shows. Some minutes on one core. McCandlish et al. 2018,
"An empirical model of large-batch training", section 2.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch

import llmlab as lab
from llmlab import evaluate
from llmlab.text import batches, split

TARGET = Path(__file__).parents[1] / "data" / "recorded" / "critical_batch.csv"
CONFIG = lab.Config(vocab_size=256, d_model=32, n_layer=1, n_head=2, max_seq=32)
LOSS = 2.9  # nats a byte, held out
SIZES = (4, 16, 64, 256)  # sequences of 32 bytes
RATES = (0.008, 0.016, 0.004, 0.002)  # of Adam: likely ones first, so that bad ones end early
MOST = 2000  # steps
EVERY = 20  # looks a step count deserves: the count is right to a twentieth


def steps_to(loss: float, batch: int, lr: float, rows: list[list[int]], valid: list[lab.text.Batch], most: int) -> int:
    """Train until the held-out loss is reached; give the steps it took, or `most` if it was not."""
    model = lab.Transformer(CONFIG)
    optimizer = lab.optim.Adam(model.parameters(), lr=lr)
    look = 5
    for step, (tokens, targets) in enumerate(batches(rows, batch, 32, epochs=None), start=1):
        model.loss(tokens, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= look:
            look = step + max(1, step // EVERY)
            if evaluate.mean_loss(model, valid) <= loss:
                return step
        if step >= most:
            break
    return most


def main() -> None:
    torch.set_num_threads(1)
    train, held_out = split(lab.text.load("python", max_bytes=2_000_000), valid=0.02)
    rows, late = ([list(document.encode("utf-8")) for document in part] for part in (train, held_out))
    valid = list(batches(late, 128, 32, seed=0))[:1]
    with TARGET.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["batch", "tokens", "lr", "steps", "reached"])
        for size in SIZES:
            most = MOST
            for lr in RATES:
                steps = steps_to(LOSS, size, lr, rows, valid, most)
                out.writerow([size, size * 32, lr, steps, steps < most])
                file.flush()
                most = min(most, 2 * steps)  # one that needs more is not the best


if __name__ == "__main__":
    main()
