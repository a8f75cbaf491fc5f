"""Rules against poor documents, one at a time, and stop words."""

from __future__ import annotations

import pytest

from llmlab.text import CHINESE, STOP_WORDS, Limits, content_words, faults, words

GOOD = (
    "The people of the town have lived with the river for as long as anyone can remember, and they say that it will "
    "be there when all of them are gone.\nEvery spring it rises over the meadows to the edge of the old road, and "
    "children run down to see how far it came this year.\nNobody minds, because what it takes it also brings back.\n"
)


def test_a_good_text_has_no_faults():
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The people of the town.", "5 words, wanted 50 to 100000"),
        (
            " ".join(f"{a}{b}" for a in "abcdefgh" for b in "stuvwxy") + " of to",
            "2.0 characters per word, wanted 3 to 10",
        ),
        (GOOD + "# " * 9, "symbols per word, wanted at most 0.1"),
        ("".join(f"- {line}\n" for line in GOOD.replace(",", ",\n").splitlines()), "100% of lines are bullets"),
        (GOOD.replace(".\n", "...\n", 2), "67% of lines break off, wanted at most 30%"),
        (GOOD + " ".join(map(str, range(1000, 1030))), "% of words have a letter, wanted 80%"),
        (
            " ".join(f"alpha{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(60)),
            "0 of the commonest words, wanted 2",
        ),
        (GOOD + "A line that says nothing new.\n" * 3, "% of lines repeat, wanted at most 30%"),
        (GOOD + "buy now " * 20, "% is one pair of words, wanted at most 20%"),
        ("", "no words"),
        (" \n ", "no words"),
    ],
)
def test_each_rule_speaks_against_its_kind_of_text(text, fault):
    assert any(fault in message for message in faults(text))


def test_limits_can_be_changed():
    assert faults("The end of it.", Limits(words=(4, 10), word_length=(2, 10))) == []


def test_chinese_has_its_own_limits():
    review = (
        "这家酒店的位置很好，离地铁站只有五分钟，房间也是干净的，服务员很热情。"
        "我在这里住了三天，没有不满意的地方，下次来还会住，推荐给大家。"
    )
    assert faults(review, CHINESE, words) == []
    assert faults("好" * 60, CHINESE, words) != []
    assert faults(review)  # English limits find one long word


def test_stop_words_are_left_out_whatever_their_case():
    assert content_words(words("The cat sat on the mat, don't you think?")) == ["cat", "sat", "mat", ",", "think", "?"]
    assert content_words(["我们", "的", "房间", "很", "干净"], "zh") == ["房间", "干净"]
    with pytest.raises(ValueError, match="one of 'en', 'zh'; got 'fr'"):
        content_words(["le"], "fr")


def test_stop_words_are_a_third_of_english_prose():
    found = [word for word in words(GOOD) if word.isalpha()]
    assert len(content_words(found)) < 0.6 * len(found)
    assert all(word == word.lower() for word in STOP_WORDS["en"])
