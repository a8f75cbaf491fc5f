"""ROUGE: what a summary shares with one written by hand (Lin 2004).

    ROUGE-n   runs of n words;  ROUGE-L  the longest sequence of words that stand in both, in this order, gaps allowed
    F1 = 2 P R / (P + R)        P the share of the summary's, R the share of the reference's

BLEU asks whether what was said is right (precision); a summary must also say what matters (recall). The figures are
means over the texts, of F1. Words are runs of a-z and 0-9 in lower case, not reduced to their stems, as the package
rouge-score does without being asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from llmlab.arguments import function, string
from llmlab.evaluate.texts import References, paired

KINDS = ("rouge1", "rouge2", "rougeL")


def rouge_words(text: str) -> list[str]:
    """Cut into runs of ASCII letters and digits, in lower case; every other character separates."""
    return re.findall("[a-z0-9]+", string("rouge_words", "text", text).lower())


def rouge(
    hypotheses: Sequence[str],
    references: References,
    tokenize: Callable[[str], list[str]] = rouge_words,
) -> dict[str, float]:
    """Compute the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 100 each, by the names rouge1, rouge2, rougeL.

    references: for each hypothesis one text, or several, of which the one that fits best counts, for each kind.
    tokenize: what is a word; `tokenize_zh` suits Chinese, of which `rouge_words` sees nothing.
    """
    function("rouge", "tokenize", tokenize, "text")
    sums, n = dict.fromkeys(KINDS, 0.0), 0
    for hypothesis, texts in paired("rouge", hypotheses, references):
        words = tokenize(hypothesis)
        each = [_scores(words, tokenize(text)) for text in texts]
        for kind in KINDS:
            sums[kind] += max(scores[kind] for scores in each)
        n += 1
    return {kind: 100 * total / n for kind, total in sums.items()}


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Count the words of the longest sequence that stands in both, in this order, with gaps."""
    row = [0] * (len(b) + 1)  # row[j]: of the words of a so far and the first j of b
    for word in a:
        above, row = row, [0]
        for j, other in enumerate(b, start=1):
            row.append(above[j - 1] + 1 if word == other else max(above[j], row[-1]))
    return row[-1]


def _scores(ours: list[str], theirs: list[str]) -> dict[str, float]:
    scores = {}
    for n in (1, 2):
        a, b = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (ours, theirs))
        scores[f"rouge{n}"] = f1((a & b).total(), a.total(), b.total())
    return {**scores, "rougeL": f1(common_subsequence(ours, theirs), len(ours), len(theirs))}


def f1(both: int, ours: int, theirs: int) -> float:
    """Compute the harmonic mean of both/ours and both/theirs, 0 to 1: 2 both / (ours + theirs); 0 for nothing."""
    return 2 * both / (ours + theirs) if both else 0.0
