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

from llmlab.arguments import function, instance
from llmlab.evaluate.texts import paired

MAX_ORDER = 4
_MARK = re.compile("([" + re.escape("".join(set(string.punctuation) - set("',-."))) + "])")
# What sacrebleu takes for Chinese, one character each. It writes the ideographs beyond U+FFFF with four digits, and so
# means U+2001 to U+2A6D, among them “ ” … and arrows; we do as it does.
_CHINESE = re.compile(
    "[\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u4db5\u4e00-\u9fbb"
    "\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef]"
)


def tokenize_13a(text: str) -> list[str]:
    """Split as mteval-v13a does: at blanks, and around each ASCII mark.

    But . and , stay within numbers, - stays unless it follows a digit, and ' stays. Four HTML entities are read as the
    characters they stand for.
    """
    instance("tokenize_13a", "text", text, str)
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity in ("&quot;", "&amp;", "&lt;", "&gt;"):  # in this order: "&amp;lt;" becomes "<"
        text = text.replace(entity, html.unescape(entity))
    return _western(f" {text} ")


def tokenize_zh(text: str) -> list[str]:
    """Split as sacrebleu's "zh" does: each Chinese character and mark alone, the rest as in mteval-v13a."""
    instance("tokenize_zh", "text", text, str)
    return _western(_CHINESE.sub(r" \g<0> ", text.strip()))


def _western(text: str) -> list[str]:
    text = _MARK.sub(r" \1 ", text)
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    tokenize: Callable[[str], list[str]] = tokenize_13a,
) -> float:
    """Compute the BLEU of a corpus, 0 to 100, as sacrebleu does by default.

    references: for each hypothesis one text, or several. tokenize: what is a word; `tokenize_zh` suits Chinese, `list`
    compares characters.
    """
    function("bleu", "tokenize", tokenize, "text")
    matched, possible, length, wanted = [0] * MAX_ORDER, [0] * MAX_ORDER, 0, 0
    for hypothesis, given in paired("bleu", hypotheses, references):
        words = tokenize(hypothesis)
        texts = [tokenize(text) for text in given]
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
