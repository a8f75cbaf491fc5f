"""What counting words reaches: naive Bayes, the yardstick of every text classifier.

    P(class | text)  ~  P(class)  *  product over the text's features of  P(feature | class)
    P(feature | class) = (count in the class + alpha) / (all counts in the class + alpha * features known)

"Multinomial" (McCallum and Nigam 1998): a feature counts as often as it stands in the text. alpha = 1 is Laplace's
rule. A feature that training never met says nothing and is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import log

from llmlab.arguments import function, listing, real, string, whole
from llmlab.text.segmentation import words


def ngrams(cut: Sequence[str], longest: int = 2) -> list[str]:
    """List words alone, in pairs, and so on: ["not", "good"] -> not, good, not good."""
    cut = listing("ngrams", "cut", cut, "words")
    whole("ngrams", "longest (words)", longest, least=1)
    return [" ".join(cut[i : i + n]) for n in range(1, longest + 1) for i in range(len(cut) - n + 1)]


def word_pairs(text: str) -> list[str]:
    """Cut a text, in lower case, into its words and pairs of neighbours; a Chinese character is a word."""
    return ngrams(words(string("word_pairs", "text", text).lower()), 2)


class NaiveBayes:
    """A classifier of texts that counts features and nothing else."""

    def __init__(
        self,
        texts: Sequence[str],
        classes: Sequence[int],
        features: Callable[[str], list[str]] = word_pairs,
        alpha: float = 1.0,
    ):
        """Count. classes: of each text, a whole number from 0. features: what a text is cut into.

        Raises: ValueError for no text, another number of classes than texts, and a class without a text.
        """
        texts = listing("NaiveBayes", "texts", texts, "texts")
        classes = [whole("NaiveBayes", "each class", y, 0) for y in listing("NaiveBayes", "classes", classes)]
        real("NaiveBayes", "alpha", alpha, above=0)
        self.features = function("NaiveBayes", "features", features, "text")
        if not texts or len(texts) != len(classes):
            raise ValueError(f"NaiveBayes wants a class for each text, got {len(texts)} texts, {len(classes)} classes")
        self.n_class = max(classes) + 1
        if empty := sorted(set(range(self.n_class)) - set(classes)):
            raise ValueError(f"NaiveBayes wants texts of each class from 0 to {max(classes)}, got none of {empty[0]}")
        counts = [Counter[str]() for _ in range(self.n_class)]
        for text, y in zip(texts, classes, strict=True):
            counts[y].update(self.features(text))
        known = set[str]().union(*counts)
        totals = [sum(count.values()) + alpha * len(known) for count in counts]
        self.log_prior = [log(classes.count(y) / len(classes)) for y in range(self.n_class)]
        self.log_likelihood = {
            feature: [log((count[feature] + alpha) / total) for count, total in zip(counts, totals, strict=True)]
            for feature in known
        }

    def scores(self, text: str) -> list[float]:
        """Give ln P(class) + Σ ln P(feature | class), one number per class: the largest wins."""
        met = [self.log_likelihood[feature] for feature in self.features(text) if feature in self.log_likelihood]
        return [prior + sum(each[y] for each in met) for y, prior in enumerate(self.log_prior)]

    def predict(self, text: str) -> int:
        """Give the likeliest class; of several equally likely ones the first."""
        scores = self.scores(text)
        return scores.index(max(scores))

    def weight(self, feature: str, y: int = 1, other: int = 0) -> float:
        """Say how much a feature speaks for class `y` against another: ln of a ratio, 0 if it was never met."""
        found = self.log_likelihood.get(feature)
        return 0.0 if found is None else found[y] - found[other]
