"""Train a model of 650,000 parameters on the default corpus for an hour, beside what counting reaches.

    python benchmarks/training_curve.py [--seconds 3600] [--threads 1] [--width 128] [--checkpoint FILE] ...

Writes the curve to data/measured/training_curve.csv, a row at each validation as soon as it is made: nats per token, by
step and second, with machine, dtype, date and the SHA-256 of the weights as they were. Held-out documents are a
twentieth of the corpus, near-duplicates of others left out beforehand. The n-grams are Kneser-Ney's, counted on the
same training documents and asked for the same tokens.

The learning rate falls by the clock, so that the run ends at its end whatever else the machine does; the seconds
include the validations. --clock processor counts the seconds the processor worked for this run, divided by the threads:
what cores of one's own would take if they never waited for each other. Both are written down, and the load. With
--checkpoint a run that was broken off goes on where it was validated last, and so does its clock. What is recorded was
made with --seconds 1900 --clock processor --dropout 0.05.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import csv
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

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
ORDERS = {2: "bigram", 3: "trigram", 4: "fourgram", 5: "fivegram"}
SIZES = {"threads": 1, "vocab": 512, "width": 128, "layers": 3, "seq": 128, "batch": 4, "valid-every": 600}


@dataclass
class Clock:
    """Seconds of this run, those before it was broken off included."""

    limit: float
    kind: str  # "wall" or "processor"
    threads: int
    before: tuple[float, float] = (0.0, 0.0)
    start: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), time.process_time()))

    def seconds(self) -> tuple[float, float]:
        """Give the seconds on the wall, and those of the processor."""
        now = time.monotonic(), time.process_time()
        wall, processor = (b + n - s for b, n, s in zip(self.before, now, self.start, strict=True))
        return wall, processor

    def share(self) -> float:
        """Say which share of the time is over, 0 to 1."""
        wall, processor = self.seconds()
        return min(1.0, (processor / self.threads if self.kind == "processor" else wall) / self.limit)


def by_the_clock(over: Callable[[], float], warm_up: float = 0.03, floor: float = 0.02) -> Callable[[int], float]:
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


def digest(model: torch.nn.Module) -> str:
    """SHA-256 of the weights' bytes, in the order of the state dict."""
    found = hashlib.sha256()
    for weight in model.state_dict().values():
        found.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass
class Curve:
    """Rows of the table, one at each validation; written, and the run's state kept, as soon as one is made."""

    trainer: Trainer
    clock: Clock
    about: dict[str, object]
    csv: Path
    checkpoint: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    since: list[float] = field(default_factory=list)  # training losses after the last row

    def note(self, train: float, valid: float | None = None) -> None:
        self.since.append(train)
        if valid is None:
            return
        wall, processor = self.clock.seconds()
        self.rows.append(
            {
                "step": self.trainer.n_step,
                "seconds": round(wall, 1),
                "processor_s": round(processor, 1),
                "tokens": self.trainer.n_token,
                "learning_rate": f"{self.trainer.optimizer.param_groups[0]['lr']:.3g}",
                "train_loss": round(fmean(self.since), 4),
                "valid_loss": round(valid, 4),
                "weights_sha256": digest(self.trainer.model),
            }
        )
        self.since = []
        print(*list(self.rows[-1].values())[:-1], sep="  ", flush=True)
        self.write()
        if self.checkpoint:
            state = {"trainer": self.trainer.state_dict(), "rows": self.rows, "seconds": self.clock.seconds()}
            torch.save(state, self.checkpoint.with_suffix(".new"))
            self.checkpoint.with_suffix(".new").replace(self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.checkpoint and self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.trainer.load_state_dict(state["trainer"])
            self.rows, self.clock.before = state["rows"], tuple(state["seconds"])
            print(f"going on from step {self.trainer.n_step}")

    def write(self) -> None:
        """What holds for the whole run stands in each row, so that the file is one plain table."""
        self.csv.parent.mkdir(parents=True, exist_ok=True)
        with self.csv.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*self.rows[0], *self.about], lineterminator="\n")
            table.writeheader()
            table.writerows([{**row, **self.about} for row in self.rows])


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument("--checkpoint", type=Path)
    return parser.parse_args()


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    train, valid = corpus(options.vocab)
    n_train, n_valid = (sum(len(ids) for ids in documents) for documents in (train, valid))
    grams = {order: evaluate.KneserNey(train, options.vocab, order).mean_loss(valid) for order in ORDERS}
    config = lab.Config(
        vocab_size=options.vocab, d_model=options.width, n_layer=options.layers, n_head=options.width // 32,
        max_seq=options.seq, position="rotary", norm="rmsnorm", bias=False, dropout=options.dropout,
    )  # fmt: skip
    print(f"{config.n_param:,} parameters, {n_train:,} tokens to train on, {n_valid:,} held out, on {where()}")
    model = lab.Transformer(config)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.1)
    clock = Clock(options.seconds, options.clock, options.threads)
    trainer = Trainer(
        model, optimizer, schedule=optim.LRScheduler(optimizer, by_the_clock(clock.share)), clip=1.0
    )  # fmt: skip
    sizes = {name: getattr(options, name) for name in ("vocab", "width", "layers", "seq", "batch", "dropout", "lr")}
    about = {
        **{f"{name}_loss": round(grams[order], 4) for order, name in ORDERS.items()},
        "corpus_tokens": n_train, "parameters": config.n_param, **sizes, "threads": options.threads, "dtype": "fp32",
        "torch": torch.__version__, "machine": str(describe_machine()), "load": round(os.getloadavg()[0], 1),
        "date": date.today().isoformat(),
    }  # fmt: skip
    curve = Curve(trainer, clock, about, options.csv, options.checkpoint)
    curve.resume()
    trainer.fit(
        until(clock.share, text.batches(train, options.batch, options.seq, epochs=None, start=trainer.n_batch)),
        valid=list(text.batches(valid, 16, options.seq, seed=None, drop_last=False)),
        valid_every=options.valid_every,
        on_step=curve.note,
        progress=False,
    )
    report(curve)


def report(curve: Curve) -> None:
    last, about = curve.rows[-1], curve.about
    reached, epochs = last["valid_loss"], last["tokens"] / int(str(about["corpus_tokens"]))
    took = f"{last['seconds']} s, {last['processor_s']} s of the processor"
    print(f"MEASURED  {last['step']} steps, {epochs:.2f} epochs, in {took}")
    print(f"MEASURED  validation loss            {reached:.3f} nats per token, perplexity {math.exp(reached):.1f}")
    for name in ORDERS.values():
        gram = float(str(about[f"{name}_loss"]))
        print(f"MEASURED  Kneser-Ney {name:<16}{gram:.3f}, the model's is {gram - reached:+.3f} below it")
    print(f"written: {curve.csv.name}")


if __name__ == "__main__":
    main()
