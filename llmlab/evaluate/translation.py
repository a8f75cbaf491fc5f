"""BLEU: how many runs of one to four words a translation shares with its references (Papineni et al. 2002).

    BLEU = 100 * brevity * (p_1 p_2 p_3 p_4)^(1/4)     brevity = min(1, exp(1 - length of references / of hypotheses))

p_n is the share of the hypotheses' n-grams that a reference has too, over the whole corpus. The figure depends on what
counts as a word, so it is compared only with the same rules: here those of NIST's mteval-v13a, the default of sacrebleu
(Post 2018), as is the smoothing: the first p_n without a match counts 1/2 of one, the second 1/4, and so on.
"""

from __future__ import annotations

import html
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from llmlab.arguments import function, instance, listing

MAX_ORDER = 4
_MARK = re.compile("([" + re.escape("".join(set(string.punctuation) - set("',-."))) + "])")


def tokenize_13a(text: str) -> list[str]:
    """Split as mteval-v13a does: at blanks, and around each ASCII mark.

    But . and , stay within numbers, - stays unless it follows a digit, and ' stays. Four HTML entities are read as the
    characters they stand for.
    """
    instance("tokenize_13a", "text", text, str)
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity in ("&quot;", "&amp;", "&lt;", "&gt;"):  # in this order: "&amp;lt;" becomes "<"
        text = text.replace(entity, html.unescape(entity))
    text = _MARK.sub(r" \1 ", f" {text} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    tokenize: Callable[[str], list[str]] = tokenize_13a,
) -> float:
    """Compute the BLEU of a corpus, 0 to 100, as sacrebleu does by default.

    references: for each hypothesis one text, or several. tokenize: `list` compares characters, as suits Chinese.
    """
    hypotheses, references = listing("bleu", "hypotheses", hypotheses), listing("bleu", "references", references)
    function("bleu", "tokenize", tokenize, "text")
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"bleu wants a list of hypotheses and as many references, got {len(hypotheses)} and {len(references)}"
        )
    matched, possible, length, wanted = [0] * MAX_ORDER, [0] * MAX_ORDER, 0, 0
    for hypothesis, given in zip(hypotheses, references, strict=True):
        words = tokenize(hypothesis)
        texts = [tokenize(text) for text in ([given] if isinstance(given, str) else given)]
        if not texts:
            raise ValueError("bleu wants at least one reference for each hypothesis, got none")
        length += len(words)
        wanted += min((abs(len(text) - len(words)), len(text)) for text in texts)[1]  # the closest length
        for n in range(MAX_ORDER):
            matched[n] += _matches(words, texts, n + 1)
            possible[n] += max(0, len(words) - n)
    return _score(matched, possible, length, wanted)


def _matches(words: list[str], texts: list[list[str]], n: int) -> int:
    """Count the n-grams that a reference has too, each at most as often as the reference that has it most."""
    allowed: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        allowed |= _ngrams(text, n)
    return (_ngrams(words, n) & allowed).total()


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _score(matched: list[int], possible: list[int], length: int, wanted: int) -> float:
    if not any(matched) or not all(possible):
        return 0.0
    logs, share = 0.0, 1.0
    for matches, total in zip(matched, possible, strict=True):
        if not matches:
            share /= 2
        logs += math.log((matches or share) / total)
    brevity = min(1.0, math.exp(1 - wanted / length))
    return 100 * brevity * math.exp(logs / MAX_ORDER)
