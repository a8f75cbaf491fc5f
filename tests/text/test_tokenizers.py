"""Characters and words as tokens."""

from __future__ import annotations

import pytest

from llmlab.text import CharTokenizer, Segmenter, WordTokenizer, load


def test_characters_get_ids_in_code_point_order_and_come_back():
    tokenizer = CharTokenizer.train(["hello", "今天"])
    assert tokenizer.vocab == ["e", "h", "l", "o", "今", "天"] and tokenizer.vocab_size == 6
    assert tokenizer.encode("今hello") == [4, 1, 0, 2, 2, 3]
    assert tokenizer.decode(tokenizer.encode("天hole")) == "天hole"


def test_the_default_corpus_comes_back_from_characters():
    documents = load("python", max_bytes=100_000)
    tokenizer = CharTokenizer.train(documents)
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in documents)


def test_an_unknown_character_is_named():
    tokenizer = CharTokenizer.train(["hello"])
    with pytest.raises(ValueError, match=r"knows the 4 characters of its corpus, got '好' \(U\+597D\)"):
        tokenizer.encode("hell好")


def test_frequent_words_get_ids_and_the_others_are_unknown():
    tokenizer = WordTokenizer.train(["the cat and the dog. the cat!"], vocab_size=4)
    assert tokenizer.vocab == ["<unk>", "the", "cat", "!"]  # 3, 2, then ties in order
    assert tokenizer.encode("the bird! the cat") == [1, 0, 3, 1, 2]
    assert tokenizer.decode([1, 0, 3]) == "the <unk> !"


def test_chinese_words_are_those_of_the_segmenter_and_joined_without_blanks():
    cut = Segmenter({"今天": 5, "天气": 5, "很": 3, "好": 3})
    tokenizer = WordTokenizer.train(["今天天气很好", "天气好"], vocab_size=5, cut=cut)
    assert sorted(tokenizer.vocab) == ["<unk>", "今天", "天气", "好", "很"]
    assert tokenizer.decode(tokenizer.encode("今天天气好")) == "今天天气好"
    assert WordTokenizer.train(["今天天气"]).vocab == ["<unk>", "天", "今", "气"]


def test_bad_input_is_refused_at_the_door():
    for train in (CharTokenizer.train, WordTokenizer.train):
        with pytest.raises(ValueError, match="empty corpus"):
            train([])
        with pytest.raises(ValueError, match="empty corpus"):
            train([""])
        with pytest.raises(ValueError, match="got one string"):
            train("one string")
    with pytest.raises(ValueError, match="5 different characters, got vocab_size=4"):
        CharTokenizer.train(["abcde"], vocab_size=4)
    with pytest.raises(ValueError, match="vocab_size .*of at least 2; got 1"):
        WordTokenizer.train(["a b"], vocab_size=1)
    for tokenizer in (CharTokenizer.train(["ab"]), WordTokenizer.train(["a"])):
        for outside in (-1, 2):
            with pytest.raises(ValueError, match=rf"0\.\.1, got {outside}"):
                tokenizer.decode([outside])
