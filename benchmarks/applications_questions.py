"""Answers out of Python's reference: find the passage by its meaning, let a small chat model read it.

The questions are the course's own (data/questions.csv). A passage is found if it is of the question's topic and says an
answer. Retrieval by MiniLM's vectors and BM25, their scores fused, stands beside BM25 alone; answers by SmolLM2 from
the passage beside the sentence of the passage most like the question, and beside the same model without a passage.

A question is fused by the weight that was best for all the others. Two things that a leave-one-out does not undo: the
questions are few, and this way of fusing was taken after another had been tried on them (a sum of 1 / (60 + rank), as
Cormack et al. 2009: 72.09 at 1, 90.70 at 5).
"""

from __future__ import annotations

import platform
import pydoc_data.topics
from collections import Counter
from collections.abc import Iterator, Sequence
from math import inf

from scored import Score, sign_test, stopwatch

import llmlab as lab
from llmlab import applications as apps
from llmlab.text.ranking import best_first

SEED = 0  # nothing is drawn
DATA = f"Python {'.'.join(platform.python_version_tuple()[:2])}'s reference, our questions"
WEIGHTS = [i / 10 for i in range(11)]  # 0 is BM25 alone, 1 is MiniLM alone
Found = list[list[int]]  # question -> the places of all passages, the best first


def scores() -> Iterator[Score]:
    questions, passages = apps.read_questions(), apps.passages_of(pydoc_data.topics.topics)
    texts = [passage.text for passage in passages]
    how = f"{len(questions)} questions, {len(texts)} passages of about 120 words"
    with stopwatch() as taken:
        found = search(questions, texts)
        ranks = {weight: ranks_of(questions, passages, each) for weight, each in found.items()}
        chosen = apps.leave_one_out(ranks)
    yield from retrieval(ranks, chosen, taken[0], how)
    first = [texts[found[weight][i][0]] for i, weight in enumerate(chosen)]
    yield from reading(questions, first, how)


def search(questions: Sequence[apps.Question], texts: list[str]) -> dict[float, Found]:
    """Order all passages for each question, by each weight; a question is embedded once."""
    words, meanings = lab.text.BM25(texts), apps.Meanings(*lab.load_pretrained("minilm-l6"), texts)
    both = [(words.scores(q.question), meanings.scores(q.question)) for q in questions]
    return {weight: [best_first(apps.fuse(*pair, weight), len(texts)) for pair in both] for weight in WEIGHTS}


def ranks_of(questions: Sequence[apps.Question], passages: list[apps.Passage], found: Found) -> list[int | None]:
    return [apps.answer_rank(question, passages, places) for question, places in zip(questions, found, strict=True)]


def retrieval(ranks: dict[float, list[int | None]], chosen: list[float], seconds: float, how: str) -> Iterator[Score]:
    """Score each question by the weight chosen for it. What is not found has an infinite rank."""
    fused = [ranks[weight][i] or inf for i, weight in enumerate(chosen)]
    words, meanings = ([rank or inf for rank in ranks[weight]] for weight in (0.0, 1.0))
    times = ", ".join(f"{weight:g} for {n}" for weight, n in sorted(Counter(chosen).items()))
    how = (
        "MiniLM-L6 and BM25, each one's scores moved into 0 to 1 and summed; MiniLM's weight out of 0, 0.1 to 1 by the "
        f"mean reciprocal rank on all other questions: {times}; {how}, one question is {100 / len(fused):.1f}"
    )
    for k in (1, 3, 5):
        yield compared(
            f"hit@{k}, %", *([rank <= k for rank in each] for each in (fused, words, meanings)), seconds, how
        )
    yield compared(
        "mean reciprocal rank, %", *([1 / rank for rank in each] for each in (fused, words, meanings)), seconds, how
    )


def compared(
    metric: str, fused: Sequence[float], words: Sequence[float], meanings: Sequence[float], seconds: float, how: str
) -> Score:
    """Average over the questions, and say for how many of them fusing was better than words alone."""
    better = sum(a > b for a, b in zip(fused, words, strict=True))
    worse = sum(a < b for a, b in zip(fused, words, strict=True))
    mean, known, alone = (100 * sum(each) / len(each) for each in (fused, words, meanings))
    settings = (
        f"better than BM25 for {better}, worse for {worse}, sign test p {sign_test(better, worse):.2f}; MiniLM-L6 "
        f"alone {alone:.2f}; {how}"
    )
    return Score(DATA, metric, mean, "BM25", known, seconds, SEED, settings)


def reading(questions: list[apps.Question], found: list[str], how: str) -> Iterator[Score]:
    with stopwatch() as taken:
        said = answers(questions, found)
    silent = [apps.nearest_sentence(q.question, text) for q, text in zip(questions, found, strict=True)]
    closed = answers(questions, [None] * len(questions))
    wanted = [question.answers for question in questions]
    settings = f"SmolLM2-135M sees three examples and reads the first passage found, at most 16 tokens, greedy; {how}"
    for name, score in (("exact match, %", lab.evaluate.exact_match), ("F1, %", lab.evaluate.answer_f1)):
        for baseline, others in (("nearest sentence of the passage", silent), ("the same model, no passage", closed)):
            yield Score(DATA, name, score(said, wanted), baseline, score(others, wanted), taken[0], SEED, settings)


def answers(questions: list[apps.Question], passages: list[str | None]) -> list[str]:
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    said = []
    for question, passage in zip(questions, passages, strict=True):
        said.append(apps.answer(model, tokenizer, question.question, passage))
        print(f"{question.question} -> {said[-1]!r}, wanted {question.answers[0]!r}", flush=True)
    return said
