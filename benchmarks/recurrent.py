"""An LSTM beside a Transformer: held-out loss after so many steps, each with the best of its own learning rates.

    python benchmarks/recurrent.py

Writes data/recorded/recurrent.csv, which notebook 04 shows. About a quarter of an hour on one core.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import torch

import llmlab as lab
from llmlab import evaluate
from llmlab.model import LSTM, Transformer
from llmlab.text import batches, split
from llmlab.training import Trainer

TARGET = Path(__file__).parents[1] / "data" / "recorded" / "recurrent.csv"
STEPS = (120, 480, 1920)
SIZES = {"vocab_size": 512, "d_model": 128, "n_head": 4, "max_seq": 64}
RIVALS = {  # name: how it is made, its learning rates
    "Transformer": (
        lambda: Transformer(lab.Config(**SIZES, n_layer=2, position="rotary", norm="rmsnorm", bias=False)),
        (0.0015, 0.003, 0.006),
    ),
    "LSTM": (
        lambda: LSTM(lab.Config(**SIZES, n_layer=1, position="none", tie_embeddings=False)),
        (0.01, 0.02, 0.04),
    ),
}


def train(model: torch.nn.Module, rows: list[list[int]], lr: float, steps: int) -> float:
    """Train for `steps` steps of 8 x 64 tokens; give the seconds it took."""
    optimizer = lab.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.warm_up(15, lab.optim.cosine(steps - 15)))
    start = time.perf_counter()
    trainer = Trainer(model, optimizer, schedule=schedule, clip=1.0)
    trainer.fit(batches(rows, 8, 64, epochs=None), steps, progress=False)
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    parts = split(lab.text.load("python", max_bytes=1_000_000), valid=0.05)
    tokenizer = lab.text.BPE.train(parts[0], vocab_size=512)
    rows, held_out = ([tokenizer.encode(document) for document in part] for part in parts)
    valid = list(batches(held_out, 16, 64, seed=None, drop_last=False))
    with TARGET.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["model", "parameters", "steps", "lr", "seconds", "loss"])
        for steps in STEPS:
            for name, (make, rates) in RIVALS.items():
                for lr in rates:
                    model = make()
                    seconds = train(model, rows, lr, steps)
                    parameters = sum(p.numel() for p in model.parameters())
                    loss = evaluate.mean_loss(model, valid)
                    out.writerow([name, parameters, steps, lr, f"{seconds:.1f}", f"{loss:.3f}"])
                    file.flush()


if __name__ == "__main__":
    main()
