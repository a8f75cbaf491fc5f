"""Sentences out of docstrings, and a scorer that learns which of them sums up."""

from __future__ import annotations

import pytest

from llmlab import applications as apps


def test_sentences_end_at_marks_and_paragraphs_and_code_is_no_sentence():
    text = """It opens e.g. a file. `mode` says how,
and it is text.

Args:
    path: where

    >>> open("a")
    +-----+
    | a b |
Then (see below) it closes? Yes."""
    assert apps.sentences_of(text) == [
        "It opens e.g. a file.", "`mode` says how, and it is text.", "Args: path: where",
        "Then (see below) it closes?", "Yes.",
    ]  # fmt: skip
    assert apps.sentences_of(">>> 1 + 1\n>>> 2") == [">>> 1 + 1 >>> 2"]  # at least one


def text(number, at):
    """Three sentences, of which one, here or there, says what the summary says; it begins with "Return"."""
    others = [f"Some remarks on thing {number} follow.", f"Note that {number} may change."]
    others.insert(at, f"Return the number {number} as it is.")
    return " ".join(others)


def test_a_scorer_learns_what_a_summary_looks_like_wherever_it_stands():
    pairs = [(text(i, i % 3), f"Return number {i}.") for i in range(30)]
    scorer = apps.SentenceScorer(n_word=50).fit(pairs)
    for i in range(100, 106):
        assert scorer(text(i, i % 3)) == f"Return the number {i} as it is."
    # its score is the ROUGE-L it expects: return, number, i of 7 and 3 words
    best = max(scorer.scores(text(7, 1)))
    assert best[0] == pytest.approx(100 * 2 * 3 / (7 + 3), abs=15)


def test_a_scorer_without_words_sees_only_where_a_sentence_stands_and_its_shape():
    pairs = [(text(i, 1), f"Return the number {i}.") for i in range(30)]
    scorer = apps.SentenceScorer(n_word=0).fit(pairs)
    assert scorer("One is here. The second stands here in the middle. Three is last.").startswith("The second")


def test_a_scorer_refuses_to_score_unfitted_and_to_learn_from_nothing():
    with pytest.raises(ValueError, match=r"fitted first, got none: scorer.fit\(pairs\)"):
        apps.SentenceScorer()("a text")
    with pytest.raises(ValueError, match="pairs of text and summary, got none"):
        apps.SentenceScorer().fit([])
    with pytest.raises(ValueError, match="pairs as a list"):
        apps.SentenceScorer().fit("text")
