"""IBM model 1 against its formula in plain loops; links, a glossary and an edited memory on a few sentences."""

from __future__ import annotations

from collections import defaultdict

import pytest

from llmlab import applications as apps
from llmlab.applications.aligning import LEAST_LINK, phrases

PAIRS = [
    ("Open the file", "打开文件"),
    ("Close the file", "关闭文件"),
    ("Open the door", "打开门"),
    ("Close the window", "关闭窗户"),
    ("Print the list", "印列表"),
    ("Delete the list", "删除列表"),
    ("Use KNX", "使用KNX"),
]


@pytest.fixture(scope="module")
def aligner():
    return apps.WordAligner(PAIRS)


@pytest.fixture(scope="module")
def glossary(aligner):
    return apps.LearnedGlossary(PAIRS, aligner)


def by_formula(pairs, rounds):
    t = defaultdict(lambda: 1.0)
    for _ in range(rounds):
        counts, totals = defaultdict(float), defaultdict(float)
        for source, target in pairs:
            for f in target:
                causes = ["", *source]
                z = sum(t[e, f] for e in causes)
                for e in causes:
                    counts[e, f] += t[e, f] / z
                    totals[e] += t[e, f] / z
        t = defaultdict(float, {(e, f): n / totals[e] for (e, f), n in counts.items()})
    return t


@pytest.mark.parametrize("rounds", [1, 4])
def test_each_round_is_the_two_steps_of_the_formula(rounds):
    pairs = [
        (["the", "house", "the"], ["das", "Haus"]),
        (["the", "book"], ["das", "Buch"]),
        (["a", "book"], ["ein", "Buch"]),
    ]
    found, wanted = apps.ibm_model_1(pairs, rounds), by_formula(pairs, rounds)
    assert found == pytest.approx({link: p for link, p in wanted.items() if p > LEAST_LINK}, rel=1e-12)
    if rounds > 1:  # nobody said that "the" is "das", and it is found out
        assert found["the", "das"] > found["the", "Haus"] and found["book", "Buch"] > 0.5


def test_words_are_linked_to_what_they_became_and_names_to_themselves(aligner):
    assert aligner(["open", "the", "window"], list("打开窗户")) == [0, 0, 2, 2]
    assert aligner(["use", "knx"], ["KNX", "用", "甲"]) == [1, 0, None]
    assert aligner([], ["门"]) == [None]


def test_a_glossary_learns_from_sentences_what_no_pair_says_alone(glossary):
    assert apps.Glossary(PAIRS)("Close the door") == "Close the door"
    assert glossary("close the door") == "关闭门" and glossary.phrase("the") == ()
    assert glossary("Open HACS") == "打开HACS"  # never seen: it stays


def test_a_phrase_is_one_run_or_nothing():
    links = [0, 1, 0, 2, 2]
    assert phrases(["a", "b", "c", "d"], list("vwxyz"), links) == {"b": ("w",), "c": ("y", "z"), "d": ()}


def test_a_known_translation_is_edited_where_the_words_differ(aligner, glossary):
    edit = apps.MemoryEditor(aligner, glossary)
    assert edit("Close the door", PAIRS[0]) == "关闭门"  # two words replaced
    assert edit("Open the file", PAIRS[0]) == "打开文件"
    assert edit("Delete list", PAIRS[5]) == "删除列表"  # "the" became nothing: nothing to drop
    assert edit("Open", PAIRS[0]) == "打开"
    assert edit("Open the ZHA", PAIRS[0]) == "打开ZHA"


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(ValueError, match="WordAligner wants pairs to learn from, got none"):
        apps.WordAligner([])
    with pytest.raises(ValueError, match=r"pairs of texts, \(source, target\); got 'ab'"):
        apps.WordAligner(["ab"])
    with pytest.raises(ValueError, match="wants rounds as a whole number of at least 1; got 0"):
        apps.ibm_model_1([(["a"], ["b"])], 0)
