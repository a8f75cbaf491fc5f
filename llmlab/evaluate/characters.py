"""chrF: how many runs of one to six characters a translation shares with its reference (Popović 2015).

    chrF = 100 * (1 + b^2) P R / (b^2 P + R)         b = 2: recall counts twice as much as precision

P and R are means over the lengths 1 to 6 of the shares of the translation's, and the reference's, runs that the other
has too, over the whole corpus; blanks do not count. A length that one side has no run of is left out. It needs no idea
of what a word is, so it suits Chinese as it does English. The rules are the default ones of sacrebleu.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from llmlab.arguments import real, whole
from llmlab.evaluate.texts import References, paired

ORDER, BETA = 6, 2.0
Counts = tuple[int, int, int]  # of one length: runs of the hypothesis, of the reference, and of both


def chrf(hypotheses: Sequence[str], references: References, order: int = ORDER, beta: float = BETA) -> float:
    """Compute the chrF of a corpus, 0 to 100, as sacrebleu does by default.

    references: for each hypothesis one text, or several, of which the one that fits best counts.
    """
    whole("chrf", "order, the longest run,", order, least=1)
    real("chrf", "beta", beta, above=0)
    total = [(0, 0, 0)] * order
    for hypothesis, texts in paired("chrf", hypotheses, references):
        ours = _runs(hypothesis, order)
        each = [_counts(ours, _runs(text, order)) for text in texts]
        best = max(each, key=lambda counts: _score(counts, beta))
        total = [(a + x, b + y, c + z) for (a, b, c), (x, y, z) in zip(total, best, strict=True)]
    return _score(total, beta)


def _runs(text: str, order: int) -> list[Counter[str]]:
    text = "".join(text.split())
    return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, order + 1)]


def _counts(ours: list[Counter[str]], theirs: list[Counter[str]]) -> list[Counts]:
    # where the reference is too short for a run of this length, the hypothesis's are not held against it
    return [(a.total() if b else 0, b.total(), (a & b).total()) for a, b in zip(ours, theirs, strict=True)]


def _score(counts: Sequence[Counts], beta: float) -> float:
    shares = [(both / ours, both / theirs) for ours, theirs, both in counts if ours and theirs]
    if not any(chain.from_iterable(shares)):
        return 0.0
    precision, recall = (sum(column) / len(shares) for column in zip(*shares, strict=True))
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
