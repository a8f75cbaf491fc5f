"""Two searches as one: the sum of their scores against hand and against each alone, and a weight chosen by others."""

from __future__ import annotations

import pytest

import llmlab as lab
from llmlab import applications as apps

TEXTS = ["a", "b", "c", "d"]
WORDS, MEANINGS = [0.0, 2.0, 8.0, 4.0], [0.2, -0.2, 0.6, 0.6]


class MadeUp:
    """An index whose scores are known, and which says how often it was asked."""

    def __init__(self, scores, texts=TEXTS):
        self.texts, self.known, self.asked = list(texts), scores, 0

    def scores(self, question):
        self.asked += 1
        return list(self.known)


def test_fused_scores_are_moved_into_0_to_1_and_summed_by_weight():
    units = [0, 0.25, 1, 0.5], [0.5, 0, 1, 1]  # by hand
    by_hand = [0.25 * meaning + 0.75 * word for word, meaning in zip(*units, strict=True)]
    index = apps.Fused(MadeUp(WORDS), MadeUp(MEANINGS), weight=0.25)
    assert by_hand == [0.125, 0.1875, 1, 0.625] and index.scores("any") == pytest.approx(by_hand)
    assert index.search("any", 3) == [2, 3, 1] and (index.words.asked, index.meanings.asked) == (2, 2)


def test_each_weight_of_0_or_1_is_one_index_alone():
    assert apps.Fused(MadeUp(WORDS), MadeUp(MEANINGS), 0).search("any", 9) == [2, 3, 1, 0]
    assert apps.Fused(MadeUp(WORDS), MadeUp(MEANINGS), 1).search("any", 9) == [2, 3, 0, 1]
    texts = ["the cat sat", "a dog sat", "no animal"]
    words = lab.text.BM25(texts)
    alone = apps.Fused(words, MadeUp([1, 2, 3], texts), 0)
    for question in ("which dog sat", "cat", "zebra"):
        assert alone.search(question, 3) == words.search(question, 3)


def test_ties_are_in_order_and_an_index_that_scores_all_alike_says_nothing():
    assert apps.Fused(MadeUp([0, 1, 0, 1]), MadeUp([1, 0, 1, 0]), 0.5).search("any", 4) == [0, 1, 2, 3]
    assert apps.fuse([0, 0, 0], [1, 3, 2], 0.25) == [0, 0.25, 0.125]
    assert apps.fuse([5], [5], 0.5) == [0]


@pytest.mark.parametrize("weight", [-0.1, 1.1, "half", None, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(ValueError, match="Fused wants weight as a number from 0 to 1; got"):
        apps.Fused(MadeUp(WORDS), MadeUp(MEANINGS), weight)
    with pytest.raises(ValueError, match="fuse wants weight"):
        apps.fuse(WORDS, MEANINGS, weight)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True])
def test_a_wrong_k_is_refused_before_anything_is_computed(k):
    index = apps.Fused(MadeUp(WORDS), MadeUp(MEANINGS))
    with pytest.raises(ValueError, match="search wants k as a whole number of at least 1; got"):
        index.search("any", k)
    assert index.words.asked == index.meanings.asked == 0


def test_what_is_no_index_of_the_same_texts_is_refused():
    with pytest.raises(ValueError, match=r"Fused wants meanings as an? Index; got .*as BM25\(texts\) or Meanings"):
        apps.Fused(MadeUp(WORDS), TEXTS)
    with pytest.raises(ValueError, match="of the same texts in one order, got 4 and 4 that differ"):
        apps.Fused(MadeUp(WORDS), MadeUp(MEANINGS, TEXTS[::-1]))
    with pytest.raises(ValueError, match="for each text, got 3 and 2"):
        apps.fuse([1, 2, 3], [1, 2], 0.5)


def test_the_mean_reciprocal_rank_counts_what_is_not_found_as_0():
    assert apps.mean_reciprocal_rank([1, 2, None, 4]) == pytest.approx((1 + 0.5 + 0.25) / 4)
    with pytest.raises(ValueError, match="a rank for each question, got none"):
        apps.mean_reciprocal_rank([])
    with pytest.raises(ValueError, match="each rank as a whole number of at least 1; got 0"):
        apps.mean_reciprocal_rank([1, 0])


def test_a_weight_is_chosen_by_the_other_questions_only():
    ranks = {0.0: [1, 3, 3], 0.5: [9, 2, 2], 1.0: [9, 2, 2]}
    assert apps.leave_one_out(ranks) == [0.5, 0.0, 0.0]  # the first alone speaks for 0, and not for itself; ties: first
    for own in (1, 2, 50, None):  # whatever becomes of the first question, its own weight stays
        changed = {weight: [own if weight == 1.0 else None, *rest] for weight, (_, *rest) in ranks.items()}
        assert apps.leave_one_out(changed)[0] == 0.5
    with pytest.raises(ValueError, match=r"same two questions or more for each weight, got \[2, 3\]"):
        apps.leave_one_out({0.0: [1, 2, 3], 1.0: [1, 2]})
    with pytest.raises(ValueError, match=r"two questions or more for each weight, got \[1\]"):
        apps.leave_one_out({0.0: [1]})
    with pytest.raises(ValueError, match="ranks as {weight: ranks}; got {}"):
        apps.leave_one_out({})
