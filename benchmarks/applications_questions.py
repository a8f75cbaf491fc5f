"""Answers out of Python's reference: find the passage by its meaning, let a small chat model read it.

The questions are the course's own (data/questions.csv). A passage is found if it is of the question's topic and says an
answer. Retrieval by MiniLM's vectors stands beside BM25; answers by SmolLM2 from the passage beside the sentence of the
passage that is most like the question, and beside the same model without a passage.
"""

from __future__ import annotations

import platform
import pydoc_data.topics
from collections.abc import Iterator

from scored import Score, stopwatch

import llmlab as lab
from llmlab import applications as apps

SEED = 0  # nothing is drawn
DATA = f"Python {'.'.join(platform.python_version_tuple()[:2])}'s reference, our questions"


class Both:
    """Two searches in one: a place that both put high comes first (reciprocal rank fusion, Cormack et al. 2009)."""

    def __init__(self, *indexes: lab.text.BM25 | apps.Meanings):
        self.indexes = indexes

    def search(self, question: str, k: int = 5) -> list[int]:
        score: dict[int, float] = {}
        for index in self.indexes:
            for rank, i in enumerate(index.search(question, 50)):
                score[i] = score.get(i, 0.0) + 1 / (60 + rank)
        return sorted(score, key=lambda i: -score[i])[:k]


def scores() -> Iterator[Score]:
    questions, passages = apps.read_questions(), apps.passages_of(pydoc_data.topics.topics)
    texts = [passage.text for passage in passages]
    words = lab.text.BM25(texts)
    with stopwatch() as taken:
        meanings = apps.Meanings(*lab.load_pretrained("minilm-l6"), texts)
    how = f"{len(questions)} questions, {len(texts)} passages of about 120 words"
    both = Both(words, meanings)
    for k in (1, 5):
        found, known = (apps.hit_rate(questions, passages, index, k) for index in (meanings, words))
        fused = apps.hit_rate(questions, passages, both, k)
        settings = f"MiniLM-L6 and BM25, ranks fused; MiniLM-L6 alone {found:.2f}; {how}"
        yield Score(DATA, f"hit@{k}, %", fused, "BM25", known, taken[0], SEED, settings)
    with stopwatch() as taken:
        found = [texts[both.search(question.question, 1)[0]] for question in questions]
        said = answers(questions, found)
    silent = [apps.nearest_sentence(q.question, text) for q, text in zip(questions, found, strict=True)]
    closed = answers(questions, [None] * len(questions))
    wanted = [question.answers for question in questions]
    for name, score in (("exact match, %", lab.evaluate.exact_match), ("F1, %", lab.evaluate.answer_f1)):
        settings = (
            f"SmolLM2-135M sees three examples and reads the first passage found, at most 16 tokens, greedy; {how}"
        )
        for baseline, others in (("nearest sentence of the passage", silent), ("the same model, no passage", closed)):
            yield Score(DATA, name, score(said, wanted), baseline, score(others, wanted), taken[0], SEED, settings)


def answers(questions: list[apps.Question], passages: list[str | None]) -> list[str]:
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    said = []
    for question, passage in zip(questions, passages, strict=True):
        said.append(apps.answer(model, tokenizer, question.question, passage))
        print(f"{question.question} -> {said[-1]!r}, wanted {question.answers[0]!r}", flush=True)
    return said
