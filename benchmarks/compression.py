"""How small does a model get before it forgets? Bytes, loss and speed of compressed models; writes compression.csv.

    python benchmarks/compression.py [--part quantising pruning distilling speed real]

The small model is trained here on the default corpus, and so are its pupils and what is re-trained; its held-out
documents are a tenth of the corpus. "real" is SmolLM2-135M on the same documents: its weights come rounded already, to
Q4_1 and the table to Q8_0, so that rounding them so again changes nothing. A part takes up to five minutes of a core.

A row: what was done to which model, loss on held-out text in nats per token, bytes stored, and settings. Speed is of
one thread, in processor time, the median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections.abc import Callable, Collection, Iterator
from datetime import date
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from racing import race

import llmlab as lab
from llmlab import compressing
from llmlab.hardware import describe_machine

CSV = Path(__file__).parents[1] / "data" / "measured" / "compression.csv"
COLUMNS = [
    "part",
    "model",
    "what",
    "share",
    "loss",
    "bytes",
    "tokens_per_s",
    "seconds",
    "seed",
    "settings",
    "machine",
    "date",
]
VOCAB, SEQ, BATCH = 512, 64, 8
TEACHER = {"d_model": 128, "n_layer": 3, "n_head": 4, "d_ff": 352}
PUPIL = {"d_model": 48, "n_layer": 2, "n_head": 4, "d_ff": 128}
ROUNDINGS: dict[str, dict[str, Any]] = {
    "8 bits, one scale": {"bits": 8, "group": "tensor"},
    "8 bits, a scale a row": {"bits": 8},
    "8 bits, groups of 32": {"bits": 8, "group": 32},
    "4 bits, one scale": {"bits": 4, "group": "tensor"},
    "4 bits, a scale a row": {"bits": 4},
    "4 bits, groups of 32": {"bits": 4, "group": 32},
    "4 bits, groups of 32, minimum": {"bits": 4, "group": 32, "minimum": True},
    "2 bits, groups of 32, minimum": {"bits": 2, "group": 32, "minimum": True},
}
TEACHER_STEPS, AGAIN_STEPS, PUPIL_STEPS = 600, 20, 120
TEACHER_RATE, AGAIN_RATES, PUPIL_RATES = 4e-3, (3e-4, 2e-3), (8e-3, 1.6e-2)
SHARES = (0.3, 0.5, 0.7, 0.8, 0.9)

Row = dict[str, Any]


class Course:
    """The text, and training on it: every model sees the same batches in the same order."""

    def __init__(self) -> None:
        train, held_out = lab.text.split(lab.text.load("python", max_bytes=400_000), valid=0.1)
        self.tokenizer = lab.text.BPE.train(train, vocab_size=VOCAB)
        self.train = [self.tokenizer.encode(document) for document in train]
        self.documents = held_out
        self.valid = list(lab.text.batches([self.tokenizer.encode(d) for d in held_out], BATCH, SEQ, seed=None))[:40]

    def model(self, seed: int = 0, **sizes: int) -> lab.Transformer:
        how: dict[str, Any] = {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}
        return lab.Transformer(lab.Config(vocab_size=VOCAB, max_seq=2 * SEQ, **how, **sizes), seed=seed)

    def fit(
        self,
        model: lab.Transformer,
        steps: int,
        lr: float,
        seed: int = 0,
        masks: compressing.Masks | None = None,
        **how: Any,
    ) -> float:
        """Train, a warm-up and a cosine; give the loss on held-out text."""
        optimizer = lab.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
        warm = max(1, steps // 10)
        schedule = lab.optim.LRScheduler(optimizer, lab.optim.warm_up(warm, lab.optim.cosine(steps - warm, floor=0.05)))
        if masks is not None:
            masks.follow(optimizer)
        batches = lab.text.batches(self.train, BATCH, SEQ, epochs=None, seed=seed)
        trainer = lab.Trainer(model, optimizer, schedule=schedule, clip=1.0, **how)
        trainer.fit(batches, steps, progress=False)
        return self.loss(model)

    def loss(self, model: Any) -> float:
        return lab.evaluate.mean_loss(model, self.valid)

    @cached_property
    def teacher(self) -> lab.Transformer:
        model = self.model(**TEACHER)
        self.fit(model, TEACHER_STEPS, TEACHER_RATE)
        return model


def row(part: str, model: str, what: str, loss: float | str, nbytes: int | str = "", **more: Any) -> Row:
    print(f"{part:<11} {model:<8} {what:<44} loss {loss!s:<8.6} {nbytes:>12} bytes  {more}", flush=True)
    return {"part": part, "model": model, "what": what, "loss": loss, "bytes": nbytes, **more}


def rounded(name: str, model: lab.Transformer, loss: Callable[[Any], float], ways: Collection[str]) -> Iterator[Row]:
    """Each of these ways of rounding, in the blocks alone."""
    yield row("quantising", name, "fp32", loss(model), compressing.stored_bytes(model))
    for what in ways:
        few = compressing.quantize(copy.deepcopy(model), **ROUNDINGS[what])
        yield row("quantising", name, what, round(loss(few), 4), compressing.stored_bytes(few))


def quantising(course: Course) -> Iterator[Row]:
    """Each way of rounding; with the table, too; and in turn (GPTQ), with twenty batches to calibrate on."""
    model, batches = course.teacher, lab.text.batches(course.train, BATCH, SEQ, seed=5)
    inputs = compressing.calibrate(model, [batch for _, batch in zip(range(20), batches, strict=False)])
    how = {"seed": 0, "settings": f"{model.config.n_param:,} parameters"}
    for found in rounded("small", model, course.loss, ROUNDINGS):
        yield {**found, **how}
    for what, settings in ROUNDINGS.items():
        ways: dict[str, dict[str, Any]] = {"table too": {"table": True}}
        if settings["bits"] < 8:
            ways["in turn"] = {"inputs": inputs}
        for more, extra in ways.items():
            few = compressing.quantize(copy.deepcopy(model), **settings, **extra)
            nbytes = compressing.stored_bytes(few)
            yield row("quantising", "small", f"{what}, {more}", round(course.loss(few), 4), nbytes, **how)


def pruning(course: Course) -> Iterator[Row]:
    """Loss against the share of the blocks' weights left out, at once and after a tenth of the training again."""
    model = course.teacher
    again = f"re-trained for {AGAIN_STEPS} of the {TEACHER_STEPS} steps, at the better of two rates, masks held"
    how = {"seed": 0, "settings": again}

    def trained(model: lab.Transformer, masks: compressing.Masks | None = None) -> float:
        """Take the better of two rates: what was hardly touched wants a small one, what lost much a large one."""
        found = []
        for lr in AGAIN_RATES:
            other = copy.deepcopy(model)
            held = masks and compressing.Masks(other, masks.keep)
            found.append(course.fit(other, AGAIN_STEPS, lr, masks=held))
        return min(found)

    ways: dict[str, Callable[[lab.Transformer], compressing.Masks]] = {
        f"smallest weights {share:.0%}": lambda m, share=share: compressing.magnitude_masks(m, share)
        for share in SHARES
    }
    ways["2 of 4"] = compressing.two_of_four
    yield row("pruning", "small", "nothing", course.loss(model), compressing.stored_bytes(model), share=0.0, **how)
    control = trained(model)
    yield row("pruning", "small", "nothing, re-trained", control, compressing.stored_bytes(model), share=0.0, **how)
    for what, make in ways.items():
        pruned = copy.deepcopy(model)
        masks = make(pruned)
        share = round(masks.apply().share, 4)
        yield row("pruning", "small", what, course.loss(pruned), "", share=share, **how)
        yield row(
            "pruning",
            "small",
            f"{what}, re-trained",
            trained(pruned, masks),
            "",
            share=share,
            **how,
        )
    block = model.config.n_param_block
    for groups, neurons in ((1, 0), (0, 88), (0, 176), (0, 264)):
        small = compressing.without(model, groups, neurons)
        what, share = f"{groups} heads, {neurons} neurons", round(1 - small.config.n_param_block / block, 4)
        nbytes = compressing.stored_bytes(small)
        yield row("pruning", "small", what, course.loss(small), nbytes, share=share, **how)
        yield row("pruning", "small", f"{what}, re-trained", trained(small), nbytes, share=share, **how)


def distilling(course: Course) -> Iterator[Row]:
    """A pupil alone and one with a teacher, each at its own best rate of a grid, then three seeds."""
    teacher = course.teacher
    yield row("distilling", "teacher", "alone", course.loss(teacher), compressing.stored_bytes(teacher), seed=0)
    ways: dict[str, dict[str, Any]] = {
        "alone": {},
        "taught, T 2": {"loss": compressing.Distillation(teacher, 2.0, 0.5)},
    }
    for what, how in ways.items():
        losses = {lr: course.fit(course.model(**PUPIL), PUPIL_STEPS, lr, **how) for lr in PUPIL_RATES}
        best = min(losses, key=lambda lr: losses[lr])
        said = f"{PUPIL_STEPS} steps, best of " + ", ".join(f"lr {lr:g}: {loss:.4f}" for lr, loss in losses.items())
        for seed in (1, 2, 3):
            pupil = course.model(seed=seed, **PUPIL)
            start = time.process_time()
            loss = course.fit(pupil, PUPIL_STEPS, best, seed, **how)
            took = round(time.process_time() - start, 1)
            more = {"seed": seed, "seconds": took, "settings": said}
            yield row("distilling", "pupil", what, loss, compressing.stored_bytes(pupil), **more)


def speed_of(name: str, models: dict[str, lab.Transformer], rounds: int) -> Iterator[Row]:
    """Tokens per second of reading 64 tokens at once, and of one token after 64."""
    prompt = torch.arange(64)[None] % VOCAB

    def read(model: lab.Transformer) -> Callable[[], object]:
        return lambda: model.last_logits(prompt)

    def write(model: lab.Transformer) -> Callable[[], object]:
        caches = model.make_caches(1, 65)
        model.last_logits(prompt, caches=caches)

        def one() -> None:
            for cache in caches:
                cache.length = 64
            model.last_logits(prompt[:, :1], caches=caches)

        return one

    for what, make, tokens in (("reads 64 tokens", read, 64), ("writes a token", write, 1)):
        with torch.no_grad():
            took = race({key: make(model) for key, model in models.items()}, rounds).processor
        for key, model in models.items():
            rate = round(tokens / median(took[key]), 1)
            yield row("speed", name, f"{key}: {what}", "", compressing.stored_bytes(model), tokens_per_s=rate)


def speed(course: Course) -> Iterator[Row]:
    model = course.model(**TEACHER)
    few = {key: compressing.quantize(copy.deepcopy(model), **ROUNDINGS[key]) for key in list(ROUNDINGS)[1::4]}
    yield from speed_of("small", {"fp32": model, **few, "half the neurons": compressing.without(model, 0, 176)}, 25)


def real(course: Course) -> Iterator[Row]:
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    assert isinstance(model, lab.Transformer)
    ids = [i for document in course.documents for i in tokenizer.encode(document)][: 4 * 65]
    batch = torch.tensor(ids).view(4, 65)

    def loss(m: Any) -> float:
        return lab.evaluate.mean_loss(m, [(batch[:, :-1], batch[:, 1:])])

    ways = ["8 bits, a scale a row", "4 bits, a scale a row", "4 bits, groups of 32", "4 bits, groups of 32, minimum"]
    for found in rounded("SmolLM2", model, loss, ways):
        yield {**found, "settings": "256 tokens of the held-out documents; the weights are Q4_1 and Q8_0 already"}


def part_of(found: Row) -> str:
    """Say which part of the benchmark a row came from."""
    return "real" if found["model"] == "SmolLM2" else found["part"]


PARTS: dict[str, Callable[[Course], Iterator[Row]]] = {
    "quantising": quantising, "pruning": pruning, "distilling": distilling, "speed": speed, "real": real,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    course, old = Course(), []
    if CSV.exists():
        with CSV.open(newline="", encoding="utf-8") as file:
            old = [found for found in csv.DictReader(file) if part_of(found) not in options.part]
    for part in options.part:
        start, when = time.process_time(), {"machine": str(describe_machine()), "date": date.today().isoformat()}
        old += [{**when, **found} for found in PARTS[part](course)]
        print(f"{part}: {time.process_time() - start:.0f} seconds of the processor")
        with CSV.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(old)


if __name__ == "__main__":
    main()
