"""Passages, what counts as found, and answers; the models themselves only where their packages are in the cache."""

from __future__ import annotations

import pydoc_data.topics

import pytest
import torch

import llmlab as lab
from llmlab import applications as apps
from llmlab.model.pretrained import MINILM, SMOLLM2
from llmlab.text.fetching import CACHE

PASSAGES = [
    apps.Passage("A failing assert raises AssertionError.", frozenset({"assert"})),
    apps.Passage('The "break" statement ends the nearest loop.', frozenset({"break", "loops"})),
    apps.Passage("A dictionary's keys must be hashable.", frozenset({"dict"})),
]


def cached(package):
    if not (CACHE / package.file).exists():
        pytest.skip(f"{package.file} is not in the cache: call load_pretrained once to fetch it")


def test_passages_hold_whole_paragraphs_and_shared_ones_once():
    topics = {"a": "one two\n\nthree four\n\n" + "long " * 9, "b": "three four\n\nfive"}
    found = apps.passages_of(topics, most=5)
    assert [(passage.text, sorted(passage.topics)) for passage in found] == [
        ("one two three four", ["a"]), (" ".join(["long"] * 9), ["a"]), ("five", ["b"]),
    ]  # fmt: skip


def test_every_question_of_ours_is_answered_somewhere_in_pythons_reference():
    questions, passages = apps.read_questions(), apps.passages_of(pydoc_data.topics.topics)
    assert len(questions) >= 30 and len({question.question for question in questions}) == len(questions)
    lost = [
        question.question
        for question in questions
        if not any(apps.holds(p.text, question.answers) for p in passages if question.topic in p.topics)
    ]
    assert len(lost) <= len(questions) // 10, lost  # the reference changes from one version of Python to the next


def test_an_answer_is_held_in_its_own_words_only():
    assert apps.holds("it raises a “NameError”.", ["KeyError", "nameerror"])
    assert not apps.holds("UnboundNameError", ["NameError"]) and not apps.holds("-10", ["-1"])
    assert apps.holds("returns -1 then", ["-1"]) and apps.holds("is *hashable*,", ["hashable"])


def test_a_hit_wants_the_right_topic_and_the_answer():
    index = lab.text.BM25([passage.text for passage in PASSAGES])
    right = apps.Question("What does a failing assert raise?", ("AssertionError",), "assert")
    elsewhere = apps.Question("What does break end?", ("nearest loop",), "assert")
    unsaid = apps.Question("What ends the nearest loop?", ("continue",), "break")
    second = apps.Question("Which keys must a loop of the break have?", ("hashable",), "dict")
    assert apps.hit_rate([right, elsewhere, unsaid, second], PASSAGES, index, k=1) == 25
    assert apps.hit_rate([right, elsewhere, unsaid, second], PASSAGES, index, k=3) == 50
    with pytest.raises(ValueError, match="hit_rate wants questions to ask, got none"):
        apps.hit_rate([], PASSAGES, index, k=1)


def test_the_rank_of_an_answer_is_where_the_first_passage_says_it():
    asked = apps.Question("Which keys must a dictionary have?", ("hashable",), "dict")
    assert [apps.answer_rank(asked, PASSAGES, found) for found in ([2, 0, 1], [0, 1, 2], [0, 1], [])] == [
        1,
        3,
        None,
        None,
    ]


def test_the_nearest_sentence_shares_the_rare_words():
    passage = "A loop may end. The break statement skips the else clause. It is a statement."
    assert apps.nearest_sentence("What does break skip?", passage).startswith("The break")


def test_vectors_want_an_encoder_and_texts():
    with pytest.raises(ValueError, match="Meanings wants encoder .*minilm-l6"):
        apps.Meanings(lab.Transformer(lab.Config(8, d_model=8, n_layer=1, n_head=1, max_seq=8)), None, ["a"])


def test_minilm_finds_a_passage_by_its_meaning():
    cached(MINILM)
    encoder, tokenizer = lab.load_pretrained("minilm-l6")
    index = apps.Meanings(encoder, tokenizer, [passage.text for passage in PASSAGES], batch=2)
    question = "Which statement leaves a cycle?"
    assert index.search(question, 1) == [1]  # it shares no word with the passage
    assert apps.Fused(lab.text.BM25(index.texts), index, weight=1).search(question, 3) == index.search(question, 3)
    alone = torch.cat([index.embed([passage.text]) for passage in PASSAGES])
    assert torch.allclose(index.vectors, alone, atol=1e-5)  # fp32: vectors of length 1, sums of 384 terms
    index.embed = None  # a wrong k is refused before anything is computed
    with pytest.raises(ValueError, match="search wants k as a whole number of at least 1; got 0"):
        index.search(question, 0)
    with pytest.raises(ValueError, match="texts as a list"):
        apps.Meanings(encoder, tokenizer, "one text")


def test_smollm2_answers_from_the_passage():
    cached(SMOLLM2)
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    said = apps.answer(model, tokenizer, "What colour is the door of Anna?", "Anna has a house with a green door.")
    assert "green" in said.lower() and "green" not in apps.answer(model, tokenizer, "What is the door of Anna?").lower()
