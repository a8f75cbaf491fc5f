"""Words of English and of Chinese."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmlab.text import Segmenter, join_words, words


def test_marks_stand_alone_and_apostrophes_do_not_cut():
    assert words("Don't stop, x_1 = 3.5!") == ["Don't", "stop", ",", "x_1", "=", "3", ".", "5", "!"]


def test_each_chinese_character_is_a_word_even_beside_letters():
    assert words("我爱Python3，真的") == ["我", "爱", "Python3", "，", "真", "的"]


def test_words_are_joined_with_blanks_only_where_both_sides_use_them():
    assert join_words(["I", "use", "分词", "，", "often", "分词", "好"]) == "I use分词，often分词好"
    assert join_words([]) == ""


def test_the_likelier_reading_wins_where_the_longest_match_fails():
    # 研究生 (graduate) 命 (life) against 研究 (to study) 生命 (life): taking the longest word first is wrong.
    counts = {"研究": 50, "研究生": 10, "生命": 40, "命": 5, "起源": 20, "生": 5}
    assert Segmenter(counts)("研究生命起源") == ["研究", "生命", "起源"]


def test_unseen_characters_and_other_scripts_pass_through():
    assert Segmenter({"今天": 3})("今天龘 GPT-2!") == ["今天", "龘", "GPT", "-", "2", "!"]


@given(
    st.dictionaries(st.text("甲乙丙", min_size=1, max_size=3), st.integers(1, 20), min_size=1),
    st.text("甲乙丙", max_size=6),
)
@example({"乙丙": 4, "甲乙": 2, "丙": 2}, "甲乙丙")  # 甲 is not in the dictionary
def test_no_way_to_cut_is_likelier(counts, text):
    total = sum(counts.values())

    def likelihood(cut: list[str]) -> float:
        return prod(counts.get(word, 0.5 if len(word) == 1 else 0) / total for word in cut)

    def ways():
        for cuts in product([False, True], repeat=max(0, len(text) - 1)):
            borders = [0, *(i for i, here in enumerate(cuts, 1) if here), len(text)]
            yield [text[i:j] for i, j in zip(borders, borders[1:], strict=False)]

    found = Segmenter(counts)(text)
    assert "".join(found) == text
    assert likelihood(found) == pytest.approx(max(map(likelihood, ways())) if text else 1)


def test_training_counts_the_words_of_cut_sentences():
    sentences = [["今天", "天气", "好"], ["天气", "好"]]
    assert Segmenter.train(sentences)("天气今天好") == ["天气", "今天", "好"]
    with pytest.raises(ValueError, match="got none"):
        Segmenter.train([])
