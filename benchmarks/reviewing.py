"""What both benchmarks of sentiment share: the reviews in three parts, naive Bayes, an encoder from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from classifying import train

import llmlab as lab
from llmlab.evaluate import NaiveBayes, accuracy
from llmlab.text import WordTokenizer, labelled, labelled_batches, split

Review = tuple[str, int]  # a text, and 1 for praise, 0 for complaint
ALPHAS = (0.1, 0.3, 1.0, 3.0)
RATES = (1e-3, 2e-3, 4e-3)  # of an encoder from scratch


@dataclass(frozen=True)
class Scratch:
    """Sizes and training of an encoder that begins with random weights."""

    vocab: int
    longest: int
    rate: float
    epochs: int
    width: int = 64
    layers: int = 1
    batch: int = 32
    hidden: float = 0.2

    def __str__(self) -> str:
        return (
            f"encoder from scratch, {self.layers} layer of width {self.width}, rotary, {self.vocab} words; AdamW "
            f"{self.rate:g} of {RATES}, {self.epochs} epochs, {self.batch} texts of up to {self.longest} words a step, "
            f"{self.hidden:.0%} of them hidden"
        )


@dataclass(frozen=True)
class Reviews:
    """Reviews to learn from, to choose settings by, and to score once."""

    train: list[Review]
    choose: list[Review]
    test: list[Review]

    @classmethod
    def of(cls, name: str) -> Reviews:
        """Part them eight to one to one, the same way each time."""
        known, test = split(labelled(name), valid=0.1, key=lambda review: review[0])
        learned, choose = split(known, valid=0.1, seed=1, key=lambda review: review[0])
        return cls(learned, choose, test)

    @property
    def known(self) -> list[Review]:
        return self.train + self.choose


def counted(learned: list[Review], rows: list[Review], alpha: float) -> float:
    """Give the accuracy of naive Bayes over words and pairs of neighbours, in percent."""
    bayes = NaiveBayes(*map(list, zip(*learned, strict=True)), alpha=alpha)
    return 100 * sum(bayes.predict(text) == y for text, y in rows) / len(rows)


def best_alpha(reviews: Reviews) -> float:
    """Choose alpha where no test text is seen."""
    return max(ALPHAS, key=lambda alpha: counted(reviews.train, reviews.choose, alpha))


def encoded(tokenizer: WordTokenizer, rows: list[Review], longest: int) -> tuple[list[list[int]], list[int]]:
    return [tokenizer.encode(text.lower())[:longest] or [0] for text, _ in rows], [y for _, y in rows]


def from_scratch(learned: list[Review], rows: list[Review], how: Scratch, seed: int) -> float:
    """Train on some reviews; give the accuracy on others, in percent."""
    tokenizer = WordTokenizer.train([text.lower() for text, _ in learned], how.vocab)
    config = lab.Config(
        vocab_size=tokenizer.vocab_size, d_model=how.width, n_layer=how.layers, n_head=how.width // 32,
        max_seq=how.longest, position="rotary", causal=False,
    )  # fmt: skip
    model = lab.Classifier(lab.Transformer(config, seed), 2, seed=seed)
    given = encoded(tokenizer, learned, how.longest)
    train(model, labelled_batches(*given, how.batch, seed, how.epochs), how.rate, how.hidden, seed)
    return 100 * accuracy(model, labelled_batches(*encoded(tokenizer, rows, how.longest), 64, seed=None))


def best_rate(reviews: Reviews, how: Scratch, epochs: int) -> Scratch:
    """Choose the learning rate after so many epochs of half the training texts, where no test text is seen."""
    tries = [replace(how, rate=rate, epochs=epochs) for rate in RATES]
    half = reviews.train[::2]
    best = max(tries, key=lambda each: from_scratch(half, reviews.choose, each, 0))
    return replace(how, rate=best.rate)


def pretrained(learned: list[Review], rows: list[Review], rate: float, epochs: int, trained: int, seed: int) -> float:
    """Train the last layers of MiniLM; give the accuracy, in percent. trained: how many layers may change."""
    encoder, tokenizer = lab.load_pretrained("minilm-l6")
    for p in encoder.parameters():
        p.requires_grad_(False)
    for p in encoder.blocks[-trained:].parameters():
        p.requires_grad_(True)
    model = lab.Classifier(encoder, 2, seed=seed)
    ids = [
        [[tokenizer.start, *tokenizer.encode(text)[:62], tokenizer.end] for text, _ in part] for part in (learned, rows)
    ]
    classes = [[y for _, y in part] for part in (learned, rows)]
    train(model, labelled_batches(ids[0], classes[0], 32, seed, epochs), rate, seed=seed)
    with torch.no_grad():
        return 100 * accuracy(model, labelled_batches(ids[1], classes[1], 32, seed=None))
