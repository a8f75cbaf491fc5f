"""Train a model of a few million parameters on the default corpus for 3 minutes, beside what counting reaches.

    python benchmarks/training_curve.py [--seconds 180] [--clock wall] [--threads 2] [--vocab 512] [--width 256] ...

Writes the curve to data/measured/training_curve.csv: nats per token, by step and second, with machine, dtype and date.
Held-out documents are a twentieth of the corpus, near-duplicates of others left out beforehand. The n-grams are
Kneser-Ney's, counted on the same training documents and asked for the same tokens. The learning rate falls by the
clock, so that the run ends at its end whatever else the machine does; the seconds include the validations but the last.

On a busy machine --clock processor counts the seconds the processor worked for this run, divided by the threads: what
cores of one's own would take if they never waited for each other. Both are written down, and the load.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path

# Read when torch loads. A thread that waits for the other must not spin on a core that somebody else could use: with
# one of the two cores taken that made a step five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from racing import where

import llmlab as lab
from llmlab import evaluate, optim, text
from llmlab.hardware import describe_machine
from llmlab.training import Trainer

CSV = Path(__file__).parents[1] / "data" / "measured" / "training_curve.csv"
FIELDS = ("step", "seconds", "processor_s", "tokens", "learning_rate", "train_loss", "valid_loss")
ABOUT = ("bigram_loss", "trigram_loss", "parameters", "vocab_size", "threads", "dtype", "machine", "load", "date")


def share_over(seconds: float, clock: str, threads: int) -> Callable[[], float]:
    """Start a clock that says which share of the time is over, 0 to 1."""
    start, processor = time.monotonic(), time.process_time()

    def share() -> float:
        passed = (time.process_time() - processor) / threads if clock == "processor" else time.monotonic() - start
        return min(1.0, passed / seconds)

    return share


def by_the_clock(over: Callable[[], float], warm_up: float = 0.1, floor: float = 0.02) -> Callable[[int], float]:
    """A factor of the learning rate that follows the share of the time that is over: up in a line, down a cosine."""

    def factor(step: int) -> float:
        cosine = floor + (1 - floor) * (1 + math.cos(math.pi * over())) / 2
        return cosine * min(1.0, (over() + 1e-3) / warm_up)

    return factor


def until(over: Callable[[], float], batches: Iterable[text.Batch]) -> Iterator[text.Batch]:
    """Give batches until the time is over."""
    for batch in batches:
        if over() >= 1:
            return
        yield batch


def corpus(vocab_size: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the training and of the held-out documents."""
    train, valid = text.split(text.deduplicate(text.load("python"), near=0.8), valid=0.05)
    tokenizer = text.BPE.train(train, vocab_size)
    return [tokenizer.encode(document) for document in train], [tokenizer.encode(document) for document in valid]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--lr", type=float, default=2e-3)
    sizes = {"threads": 2, "vocab": 512, "width": 256, "layers": 4, "seq": 128, "batch": 8, "valid-every": 150}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--csv", type=Path, default=CSV)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    train, valid = corpus(options.vocab)
    n_train, n_valid = (sum(len(ids) for ids in documents) for documents in (train, valid))
    grams = {order: evaluate.KneserNey(train, options.vocab, order).mean_loss(valid) for order in (2, 3)}
    config = lab.Config(
        vocab_size=options.vocab, d_model=options.width, n_layer=options.layers, n_head=options.width // 32,
        max_seq=options.seq, position="rotary", norm="rmsnorm", bias=False,
    )  # fmt: skip
    print(f"{config.n_param:,} parameters, {n_train:,} tokens to train on, {n_valid:,} held out")
    print(f"on {where()}")
    rows: list[dict[str, object]] = []
    model = lab.Transformer(config)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.1)
    load, start, processor = os.getloadavg()[0], time.monotonic(), time.process_time()
    over = share_over(options.seconds, options.clock, options.threads)
    trainer = Trainer(model, optimizer, schedule=optim.LRScheduler(optimizer, by_the_clock(over)), clip=1.0)

    def note(train: float, valid: float | None = None) -> None:
        seconds, worked = round(time.monotonic() - start, 2), round(time.process_time() - processor, 2)
        lr = optimizer.param_groups[0]["lr"]
        values = (
            trainer.n_step,
            seconds,
            worked,
            trainer.n_token,
            f"{lr:.3g}",
            round(train, 4),
            valid and round(valid, 4),
        )
        rows.append(dict(zip(FIELDS, values, strict=True)))

    trainer.fit(
        until(over, text.batches(train, options.batch, options.seq, epochs=None)),
        valid=text.batches(valid, options.batch, options.seq, seed=None, drop_last=False),
        valid_every=options.valid_every,
        on_step=note,
    )
    reached, epochs = rows[-1]["valid_loss"], trainer.n_token / n_train
    took = f"{rows[-1]['seconds']} s, {rows[-1]['processor_s']} s of the processor"
    print(f"MEASURED  {trainer.n_step} steps, {epochs:.2f} epochs, in {took}")
    print(f"MEASURED  validation loss            {reached:.3f} nats per token, perplexity {math.exp(reached):.1f}")
    for order, name in ((2, "bigram"), (3, "trigram")):
        print(
            f"MEASURED  Kneser-Ney {name:<16}{grams[order]:.3f}, the model's is {grams[order] - reached:+.3f} below it"
        )
    about = (
        round(grams[2], 4), round(grams[3], 4), config.n_param, options.vocab, options.threads, "fp32",
        str(describe_machine()), round(load, 1), date.today().isoformat(),
    )  # fmt: skip
    write(options.csv, rows, dict(zip(ABOUT, about, strict=True)))


def write(path: Path, rows: list[dict[str, object]], about: dict[str, object]) -> None:
    """One row per step; what holds for the whole run stands in each, so that the file is one plain table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*FIELDS, *ABOUT], lineterminator="\n")
        table.writeheader()
        table.writerows([{**row, **about} for row in rows])
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
