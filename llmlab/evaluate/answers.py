"""Scores of short answers: exact match and F1 of words, by the rules of SQuAD (Rajpurkar et al. 2016, section 6.1)."""

from __future__ import annotations

import re
import string as characters
from collections import Counter
from collections.abc import Callable, Sequence

from llmlab.arguments import string
from llmlab.evaluate.summaries import f1
from llmlab.evaluate.texts import References, paired

_MARKS = str.maketrans("", "", characters.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normal_answer(text: str) -> str:
    """Bring an answer to a common form: lower case, no ASCII marks, no articles, single blanks.

    Marks vanish without a blank in their place, and articles after them, so "the U.S." becomes "us".
    """
    text = string("normal_answer", "text", text).lower().translate(_MARKS)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(answers: Sequence[str], references: References) -> float:
    """Compute the share of answers, 0 to 100, that are one of their references in the common form."""
    return _mean("exact_match", answers, references, lambda answer, text: float(answer == text))


def answer_f1(answers: Sequence[str], references: References) -> float:
    """Compute the mean F1, 0 to 100, of the words that an answer shares with the reference that fits it best.

    As in SQuAD's first version, an answer of no words shares nothing, even with a reference of none.
    """
    return _mean("answer_f1", answers, references, _word_f1)


def _word_f1(answer: str, text: str) -> float:
    a, b = Counter(answer.split()), Counter(text.split())
    return f1((a & b).total(), a.total(), b.total())


def _mean(call: str, answers: Sequence[str], references: References, score: Callable[[str, str], float]) -> float:
    best = [
        max(score(normal_answer(answer), normal_answer(text)) for text in texts)
        for answer, texts in paired(call, answers, references)
    ]
    return 100 * sum(best) / len(best)
