"""Exact and near duplicates."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmlab.text import deduplicate, jaccard, load, minhash, near_duplicates, shingles


def changed(text: str, share: float, seed: int) -> str:
    """Replace a share of the words."""
    draw = random.Random(seed)
    return " ".join(f"other{draw.random()}" if draw.random() < share else word for word in text.split())


@pytest.fixture(scope="module")
def planted() -> list[str]:
    """Real documents, every fourth one followed somewhere by a copy with one to ten per cent of its words changed.

    Which documents there are depends on the Python whose documentation they are: two copies are nearly the same.
    """
    documents = [text for text in load("python", max_bytes=400_000) if len(text.split()) > 60][:120]
    copies = [changed(text, share=0.01 * (1 + i % 10), seed=i) for i, text in enumerate(documents[::4])]
    return documents + copies + [changed(text, share=0.002, seed=i) for i, text in enumerate(documents[1:13:2])]


def test_equal_but_for_case_blanks_and_unicode_forms_is_equal():
    documents = ["One  text", "one text\n", "ｏｎｅ ｔｅｘｔ", "another", "caf\u00e9", "cafe\u0301", "One  text"]
    assert deduplicate(documents) == ["One  text", "another", "caf\u00e9"]


def test_near_duplicates_equal_those_found_by_comparing_all_pairs(planted):
    sets = [shingles(text) for text in planted]
    expected, repeats = [], set()
    for j in range(len(sets)):
        similar = [(jaccard(sets[i], sets[j]), -i) for i in range(j) if i not in repeats]
        similarity, i = max(similar, default=(0.0, 0))
        if similarity >= 0.8:
            repeats.add(j)
            expected.append((-i, j, similarity))
    assert len(expected) >= 5  # a change of one word in fifty leaves 5-shingles about 0.8 alike
    assert near_duplicates(planted, 0.8) == expected


def test_near_duplicates_are_left_out_and_the_first_kept(planted):
    kept = deduplicate(planted, near=0.8)
    dropped = {later for _, later, _ in near_duplicates(planted, 0.8)}
    assert kept == [text for i, text in enumerate(planted) if i not in dropped]
    assert deduplicate(kept, near=0.8) == kept


def test_what_resembles_only_a_repeat_is_kept():
    # 96 shingles each; neighbours share 91 of 101, the first and the last 86 of 106.
    documents = [" ".join(f"word{i}" for i in range(start, start + 100)) for start in (0, 5, 10)]
    assert near_duplicates(documents, 0.85) == [(0, 1, 91 / 101)]
    assert deduplicate(documents, near=0.85) == [documents[0], documents[2]]


def test_signatures_estimate_the_similarity():
    # The share of equal places among 128 has a standard deviation of at most 0.044; four of them is 0.18.
    for shared in (0, 100, 300, 500):
        a, b = frozenset(range(500)), frozenset(range(500 - shared, 1000 - shared))
        estimate = float(np.mean(minhash(spread(a)) == minhash(spread(b))))
        assert estimate == pytest.approx(jaccard(a, b), abs=0.18)


def spread(numbers: frozenset[int]) -> frozenset[int]:
    """Stand in for hashes: 32 bits each."""
    return frozenset((number * 2654435761) % 2**32 for number in numbers)


def test_a_signature_is_the_same_in_every_session():
    signature = minhash(frozenset([1, 2, 3]))
    assert signature.shape == (128,) and signature.dtype == np.uint32
    assert np.array_equal(signature, minhash(frozenset([3, 2, 1])))
    assert signature[:2].tolist() == [897592505, 22621486]


def test_a_large_set_is_worked_through_in_parts():
    large = spread(frozenset(range(10_000)))
    parts = np.minimum(minhash(frozenset(sorted(large)[:5000])), minhash(frozenset(sorted(large)[5000:])))
    assert np.array_equal(minhash(large), parts)


def test_chinese_near_duplicates_are_found_by_their_characters():
    review = (
        "这家酒店的位置很好，离地铁站只有五分钟，房间干净，服务员也很热情，"
        "下次来北京还会住在这里，推荐给大家，早餐的种类也不少，价格合理。"
    )
    other = "电池只能用两个小时，屏幕也有亮点，客服一直不接电话，非常失望，不会再买这个牌子的电脑了。"
    found = near_duplicates([review, other, review.replace("五分钟", "六分钟")], 0.7)
    assert [(i, j) for i, j, _ in found] == [(0, 2)]


def test_short_and_empty_texts_are_compared_too():
    assert near_duplicates(["one two", "one two", "", "", "one three"], 0.9) == [(0, 1, 1.0)]
    assert jaccard(frozenset(), frozenset()) == 0


def test_bad_input_is_refused_at_the_door():
    for threshold in (0.0, 1.1):
        with pytest.raises(ValueError, match="above 0 and of at most 1; got"):
            near_duplicates(["a"], threshold)
    with pytest.raises(ValueError, match="got an empty set"):
        minhash(frozenset())
