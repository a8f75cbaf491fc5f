"""English to Chinese: an encoder-decoder on the strings of two programs, trained by data parallel on two processes.

The pairs are split by their English side, so that no sentence of the test was seen with any translation. The baselines
are a translation memory (the translation of the most similar sentence known) and a glossary, word by word. Ten thousand
pairs and five minutes make no translator: what the model writes by itself is scored beside the glossary, and loses.
Then it helps to choose one of the memory's ten nearest; the control is the same choice without it. Two processes and
one train in turn from the same start, for the ratio of their seconds and for their losses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from scored import Score, stopwatch

import llmlab as lab
from llmlab import applications as apps
from llmlab.model import EncoderDecoder

SEED, STEPS, BATCH, LR, VOCAB = 0, 3200, 64, 3e-3, 2000
SIZES: dict[str, Any] = {
    "d_model": 64, "n_layer": 2, "n_head": 2, "max_seq": 96, "position": "sinusoidal", "dropout": 0.1,
    "label_smoothing": 0.1,
}  # fmt: skip
CANDIDATES = 10
LIKENESS, PLACE = (0, 1, 2, 4, 8, 16, 32, 64), (0, 0.1, 0.3, 1, 3)  # what each weighs, to be chosen from
TURNS, TURN_STEPS = 5, 12
DATA = "strings of Home Assistant and JupyterLab, English to Chinese"
SENTENCES = ["I love programming.", "Open the file.", "The file could not be opened.", "I love you."]
Pairs = list[tuple[str, str]]


def train(world: lab.Group, rows: list, config: lab.Config, steps: int) -> tuple[list[float], dict, float, float]:
    """Train on this rank's part of every batch; give the whole batches' losses, the weights, seconds, processor's."""
    model = lab.data_parallel(EncoderDecoder(config, seed=SEED), world)
    optimizer = lab.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.warm_up(100, lab.optim.cosine(STEPS - 100, floor=0.02)))
    size, losses = BATCH // world.size, []
    world.barrier()
    start, worked = time.perf_counter(), time.process_time()
    for step, batch in enumerate(islice(apps.pair_batches(rows, BATCH, SEED), steps)):
        part = apps.PairBatch(*(tensor[world.rank * size :][:size] for tensor in batch))
        loss = apps.pair_loss(model, part) / int((batch.targets != lab.text.IGNORE).sum())
        optimizer.zero_grad()
        (loss * world.size).backward()  # data_parallel takes the ranks' mean, and the sum is wanted
        lab.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(world.all_reduce(loss.detach()).item())
        if world.rank == 0 and step % 100 == 99:
            print(f"step {step + 1:>5}  {losses[-1]:.3f} nats per token, with label smoothing", flush=True)
    state = {name: weight.detach().clone() for name, weight in model.state_dict().items()} if world.rank == 0 else {}
    return losses, state, time.perf_counter() - start, time.process_time() - worked


def trained(rows: list, config: lab.Config) -> tuple[dict, float]:
    """Train on two processes; give the weights, and the processor's seconds of both."""
    results = lab.Processes(2, timeout_s=3600).run(train, rows, config, STEPS).results
    return results[0][1], sum(result[3] for result in results)


def compare(rows: list, config: lab.Config) -> tuple[float, float, float, float]:
    """Train in turn on one process and on two; give times as fast, both last losses, and their largest difference."""
    taken: dict[int, list[float]] = {1: [], 2: []}
    losses = {}
    with lab.Processes(1, timeout_s=600).start() as one, lab.Processes(2, timeout_s=600).start() as two:
        for _ in range(TURNS):
            for ranks, workers in ((1, one), (2, two)):
                losses[ranks], _, seconds, _ = workers.run(train, rows, config, TURN_STEPS).results[0]
                taken[ranks].append(seconds)
    apart = max(abs(a - b) / a for a, b in zip(losses[1], losses[2], strict=True))
    return median(a / b for a, b in zip(taken[1], taken[2], strict=True)), losses[2][-1], losses[1][-1], apart


def split_pairs(seed: int = SEED) -> tuple[Pairs, Pairs, Pairs]:
    pairs = apps.prose_pairs(lab.text.pairs("homeassistant") + lab.text.pairs("jupyterlab"))
    rest, test = lab.text.split(pairs, valid=0.1, seed=2 * seed, key=source)
    learned, valid = lab.text.split(rest, valid=0.05, seed=2 * seed + 1, key=source)
    return learned, sentences(valid), sentences(test)


def source(pair: tuple[str, str]) -> str:
    return pair[0].lower()


def sentences(pairs: Pairs) -> Pairs:
    """Keep what has three words or more, each source once."""
    return list({english: (english, chinese) for english, chinese in pairs if len(english.split()) >= 3}.values())


def scored(found: Sequence[str], pairs: Pairs) -> tuple[float, float]:
    """Compute BLEU, cut as sacrebleu cuts Chinese, and chrF."""
    wanted = [chinese for _, chinese in pairs]
    return lab.evaluate.bleu(found, wanted, lab.evaluate.tokenize_zh), lab.evaluate.chrf(found, wanted)


@dataclass
class Candidate:
    """One of the memory's translations: its place there, how like its source is, 0 to 1, and what the model thinks."""

    chinese: str
    place: int
    likeness: float
    likely: float  # ln P, a token


def candidates(model: EncoderDecoder, tokenizer: lab.text.BPE, learned: Pairs, asked: Pairs) -> list[list[Candidate]]:
    memory, found = apps.TranslationMemory(learned), []
    for text, _ in asked:
        near = memory.candidates(text, CANDIDATES)
        likely = apps.translation_scores(model, tokenizer, text, [chinese for _, chinese in near])
        likeness = [lab.evaluate.rouge([text], [known])["rougeL"] / 100 for known, _ in near]
        found.append([Candidate(near[i][1], i, likeness[i], likely[i]) for i in range(len(near))])
    return found


def chosen(found: list[list[Candidate]], weights: tuple[float, float, float]) -> list[str]:
    """Choose for each text the candidate of the highest weighted sum of likeness, place (downwards) and ln P."""
    like, place, likely = weights

    def value(c: Candidate) -> float:
        return like * c.likeness - place * c.place + likely * c.likely

    return [max(row, key=value).chinese for row in found]


def best_weights(found: list[list[Candidate]], pairs: Pairs, likely: float) -> tuple[float, float, float]:
    """Try all weights on pairs that are neither learned from nor tested on."""
    tried = [(like, place, likely) for like in LIKENESS for place in PLACE]
    return max(tried, key=lambda weights: scored(chosen(found, weights), pairs)[0])


def better(found: Sequence[str], than: Sequence[str], pairs: Pairs) -> tuple[int, int]:
    """Count the sentences whose chrF is higher, and lower."""
    gain = [
        lab.evaluate.chrf([a], [wanted]) - lab.evaluate.chrf([b], [wanted])
        for a, b, (_, wanted) in zip(found, than, pairs, strict=True)
    ]
    return sum(x > 0 for x in gain), sum(x < 0 for x in gain)


def scores() -> Iterator[Score]:
    learned, valid, test = split_pairs()
    print(f"{len(learned)} pairs to train on, {len(valid)} to choose by, {len(test)} to test on", flush=True)
    tokenizer = apps.pair_tokenizer(learned, VOCAB)
    config = lab.Config(vocab_size=tokenizer.vocab_size, **SIZES)
    rows = apps.encode_pairs(tokenizer, learned, config.max_seq)
    state, seconds = trained(rows, config)
    model = EncoderDecoder(config)
    model.load_state_dict(state)
    texts = [english for english, _ in test]
    settings = (
        f"EncoderDecoder of {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{', '.join(f'{name} {value}' for name, value in SIZES.items())}; BPE of {VOCAB} tokens for both; AdamW, "
        f"{LR} with warm-up and cosine, {STEPS} steps of {BATCH} pairs by data parallel on 2 processes; "
        f"{len(learned)} pairs to train on, split by English string, {len(test)} of 3 to 30 words to test on; "
        "Chinese BLEU as sacrebleu's zh"
    )
    with stopwatch() as taken:
        to_choose, to_test = (candidates(model, tokenizer, learned, part) for part in (valid, test))
        weights, without = (best_weights(to_choose, valid, likely) for likely in (1, 0))
        picked, control = chosen(to_test, weights), chosen(to_test, without)
    nearest = [row[0].chinese for row in to_test]
    more, fewer = better(picked, control, test)
    for metric, i in (("BLEU", 0), ("chrF", 1)):
        yield Score(
            DATA, metric, scored(picked, test)[i], "translation memory", scored(nearest, test)[i], seconds + taken[0],
            SEED, f"of the memory's {CANDIDATES} nearest the one of the highest {weights[0]:g} likeness (ROUGE-L of "
            f"the sources) - {weights[1]:g} place + ln P of the model, chosen on {len(valid)} other pairs; chosen "
            f"without the model {scored(control, test)[i]:.2f}: better by chrF in {more} sentences, worse in {fewer}; "
            f"{settings}",
        )  # fmt: skip
    with stopwatch() as more_taken:
        alone = scored(apps.translate(model, tokenizer, texts, beams=1), test)
    glossary = scored(list(map(apps.Glossary(learned), texts)), test)
    for metric, i in (("BLEU", 0), ("chrF", 1)):
        yield Score(
            DATA, f"{metric} of the model alone", alone[i], "glossary, word by word", glossary[i],
            seconds + more_taken[0], SEED, f"greedy; {settings}",
        )  # fmt: skip
    for english, chinese in zip(SENTENCES, apps.translate(model, tokenizer, SENTENCES), strict=True):
        print(f"{english} -> {chinese}")
    yield from parallel(rows, config)


def parallel(rows: list, config: lab.Config) -> Iterator[Score]:
    """Say what the second process bought, and that it changed nothing else."""
    faster, two, one, apart = compare(rows, config)
    how = (
        f"{TURNS} times {TURN_STEPS} steps on one process and on two, in turn, median ratio; load of the machine "
        f"{os.getloadavg()[0]:.1f}; losses of all {TURN_STEPS} steps apart by at most {apart:.1e} of themselves"
    )
    yield Score(DATA, "times as fast on 2 processes", faster, "1 process", 1.0, 0.0, SEED, how)
    metric = f"training loss at step {TURN_STEPS} on 2 processes, nats per token (equal is right)"
    yield Score(DATA, metric, two, "1 process", one, 0.0, SEED, how)
