"""Packing documents into rows, and going through them in batches."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmlab.text import BPE, IGNORE, batches, load, pack

DOCUMENTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]
some_documents = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6)


def test_rows_targets_borders_and_positions_worked_out_by_hand():
    rows = pack(DOCUMENTS, seq=4)
    assert rows.tokens.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]  # a third, 9 10, asks nothing
    assert rows.targets.tolist() == [[2, 3, IGNORE, 5], [IGNORE, 7, 8, 9]]
    assert rows.documents.tolist() == [[0, 0, 0, 1], [1, 2, 2, 2]]
    assert rows.positions.tolist() == [[0, 1, 2, 0], [1, 0, 1, 2]]


def test_an_end_token_is_the_last_target_of_every_document():
    rows = pack(DOCUMENTS, seq=7, end=0)
    assert rows.tokens.tolist() == [[1, 2, 3, 0, 4, 5, 0], [6, 7, 8, 9, 0, 10, 0]]
    assert rows.targets.tolist() == [[2, 3, 0, IGNORE, 5, 0, IGNORE], [7, 8, 9, 0, IGNORE, 0, IGNORE]]


@given(some_documents, st.integers(1, 8))
def test_every_token_but_a_documents_first_is_a_target_once(documents, seq):
    total = sum(map(len, documents))
    if seq >= total or max(map(len, documents)) < 2:
        return
    rows = pack(documents, seq)
    asked = rows.targets != IGNORE
    given_, wanted = rows.tokens[asked].tolist(), rows.targets[asked].tolist()
    assert wanted == [token for document in documents for token in document[1:]]
    assert given_ == [token for document in documents for token in document[:-1]]
    assert rows.positions[asked].tolist() == [i for document in documents for i in range(len(document) - 1)]
    assert rows.documents[asked].tolist() == [n for n, document in enumerate(documents) for _ in document[:-1]]


def test_a_batch_unpacks_as_tokens_and_targets():
    for tokens, targets in batches(list(range(97)), batch=2, seq=8):
        assert tokens.shape == targets.shape == (2, 8) and tokens.dtype == targets.dtype == torch.long
        assert (targets == tokens + 1).all()


def test_one_document_may_be_given_as_ids_or_as_a_tensor():
    ids = list(range(50))
    plain, tensor, nested = (list(batches(x, 2, 4, seed=None)) for x in (ids, torch.tensor(ids), [ids]))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(plain, tensor, strict=True))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(plain, nested, strict=True))


IDS = [5, 60_000, 7, 8, 65_535, 9, 10, 11, 12, 13, 14, 15, 16]
SIGNED = [torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]


def equal(found, wanted):
    pairs = list(zip(found, wanted, strict=True))
    names = ("tokens", "targets", "documents", "positions")
    return bool(pairs) and all(torch.equal(getattr(a, n), getattr(b, n)) for a, b in pairs for n in names)


@pytest.mark.parametrize(
    "ids",
    [
        *(torch.tensor(IDS).to(dtype) for dtype in (torch.int32, torch.int64, *UNSIGNED)),
        *(np.array(IDS, dtype) for dtype in ("<u2", ">u2", "u4", "i4", "i8", "u8")),
        tuple(IDS),
        [np.int64(i) for i in IDS],
        list(np.array(IDS, np.uint16)),
        [torch.tensor(i) for i in IDS],
        [np.array(IDS, np.uint16)],
        [torch.tensor(IDS).to(torch.uint16)],
        (ids for ids in [IDS]),
        np.array([IDS], np.uint16),
        torch.tensor([IDS]),
    ],
    ids=lambda ids: f"{type(ids).__name__} {getattr(ids, 'dtype', '')}",
)
def test_ids_may_come_as_lists_arrays_or_tensors_of_any_integers(ids):
    assert equal(batches(ids, 2, 3, end=None), batches(IDS, 2, 3))


def test_documents_may_come_as_lists_of_any_of_these():
    wanted = list(batches(DOCUMENTS, 1, 4, end=0))
    arrays = [np.array(document, np.uint16) for document in DOCUMENTS]
    tensors = [torch.tensor(document).to(torch.uint8) for document in DOCUMENTS]
    odd = np.empty(len(DOCUMENTS), object)
    odd[:] = DOCUMENTS
    mixed = [arrays[0].astype(np.uint64), tensors[1], DOCUMENTS[2], tuple(DOCUMENTS[3])]
    for documents in (arrays, tensors, odd, mixed, [*arrays, np.array([], np.uint16), []]):
        assert equal(batches(documents, 1, 4, end=0), wanted)
    square = [[1, 2, 3], [4, 5, 6]]
    assert equal(batches(np.array(square), 1, 2), batches(square, 1, 2))


def test_a_mapped_file_gives_the_same_batches_and_is_not_read_into_memory(tmp_path):
    n, seq = 3_000_000, 64
    np.random.default_rng(0).integers(0, 50_000, n).astype(np.uint16).tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    tracemalloc.start()
    found = batches(mapped, 4, seq, epochs=None)
    first = [batch for batch, _ in zip(found, range(20), strict=False)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.shares_memory(found.rows.stream, mapped)
    # a few numbers of 8 bytes a row of 64 tokens: its own number, its tokens without a target, its place in the order
    assert peak < n * 2 / 2, f"{peak:,} bytes were taken for a file of {2 * n:,}"
    assert equal(first, [b for b, _ in zip(batches(mapped.tolist(), 4, seq, epochs=None), range(20), strict=False)])
    assert all((batch.tokens[:, 1:] == batch.targets[:, :-1]).all() for batch in first)


@pytest.mark.parametrize(
    "documents, message",
    [
        ("some text", r"must be integers, got the text 'some text': pass \[tokenizer.encode\(text\)\]"),
        (["one", "two"], "must be integers, got the text 'one'"),
        (b"bytes", "must be integers, got the text b'bytes'"),
        (torch.ones(9), "must be integers, got a tensor of torch.float32"),
        (torch.ones(9, dtype=torch.bfloat16), "got a tensor of torch.bfloat16"),
        (torch.ones(9, dtype=torch.bool), "must be integers, got bool"),
        (np.ones(9), "must be integers, got float64"),
        ([1.0, 2.0], "must be integers, got float64"),
        ([True, False], "must be integers, got bool"),
        ([[1, 2], [3, 4.5]], "must be integers, got float64"),
        ([np.ones(3)], "must be integers, got float64"),
        ([1, [2, 3]], "must be integers: "),
        ([[[1, 2], [3]]], "a document must be one row of token ids"),
        (np.zeros((2, 2, 2), int), r"in one row, or in one per document; got the shape \(2, 2, 2\)"),
        ([np.zeros((2, 2), int)], "a document must be one row of token ids"),
        (5, "must be a list, an array or a tensor, got 5"),
        (None, "must be a list, an array or a tensor, got None"),
    ],
)
def test_what_is_no_token_ids_is_refused(documents, message):
    with pytest.raises(ValueError, match=message):
        batches(documents, 1, 2)


@pytest.mark.parametrize("name", ["batch", "seq", "start", "epochs"])
def test_counts_must_be_integers(name):
    with pytest.raises(ValueError, match=f"{name} .*as a whole number.*got 2.5"):
        batches(IDS, **{"batch": 1, "seq": 3, name: 2.5})


def test_an_epoch_shows_every_row_once_and_the_next_one_in_another_order():
    found = list(batches(list(range(161)), batch=4, seq=4, seed=3, epochs=2))
    firsts = torch.cat([batch.tokens[:, 0] for batch in found]).tolist()
    assert len(found) == 20
    assert sorted(firsts[:40]) == sorted(firsts[40:]) == list(range(0, 160, 4))
    assert firsts[:40] != firsts[40:] and firsts[:40] != sorted(firsts[:40])


def test_the_order_depends_on_the_seed_alone():
    def firsts(seed: int | None) -> list[int]:
        return [int(batch.tokens[0, 0]) for batch in batches(list(range(401)), 2, 4, seed=seed)]

    assert firsts(0) == firsts(0) != firsts(1)
    assert firsts(None) == list(range(0, 400, 8))


@pytest.mark.parametrize("start", [0, 1, 9, 10, 13, 20])
def test_a_run_resumes_where_it_stopped_even_in_a_later_epoch(start):
    ids = list(range(81))
    whole = list(batches(ids, batch=2, seq=4, seed=5, epochs=2))
    rest = list(batches(ids, batch=2, seq=4, seed=5, epochs=2, start=start))
    assert len(whole) == 20 and len(rest) == 20 - start
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(whole[start:], rest, strict=True))


def test_endless_batches_go_on_into_the_next_epoch():
    endless = iter(batches(list(range(41)), batch=2, seq=4, epochs=None))
    assert len([next(endless) for _ in range(23)]) == 23


def test_the_last_rows_are_left_out_or_kept():
    ids = list(range(45))  # 12 rows of 4, the last one of a single token without a target
    assert [len(batch) for batch in batches(ids, batch=4, seq=4)] == [4, 4]
    kept = list(batches(ids, batch=4, seq=4, drop_last=False))
    assert [len(batch) for batch in kept] == [4, 4, 3]
    assert sum(int((batch.targets != IGNORE).sum()) for batch in kept) == 44


def test_real_text_goes_round():
    documents = load("python", max_bytes=50_000)
    bpe = BPE.train(documents, 300)
    ids = [bpe.encode(text) for text in documents]
    rows = pack(ids, seq=64)
    assert bpe.decode(rows.tokens[rows.documents == 0][: len(ids[0])]) == documents[0]


def test_bad_input_is_refused_at_the_door():
    for empty in ([], [[]]):
        with pytest.raises(ValueError, match="empty corpus"):
            batches(empty)
    for seq in (0, 10, 64):
        with pytest.raises(ValueError, match=f"below the number of tokens.*from 1 to 9; got {seq}"):
            batches([list(range(10))], batch=1, seq=seq)
    with pytest.raises(ValueError, match="no document has two tokens"):
        batches([[1], [2], [3]], batch=1, seq=2)
    with pytest.raises(ValueError, match="a batch of 8 rows of 4 tokens, got 2 rows"):
        batches([list(range(9))], batch=8, seq=4)
    with pytest.raises(ValueError, match="batch as a whole number of at least 1; got 0"):
        batches(DOCUMENTS, batch=0, seq=4)
    with pytest.raises(ValueError, match="start as a whole number of at least 0; got -1"):
        batches(DOCUMENTS, batch=1, seq=4, start=-1)
    with pytest.raises(ValueError, match="epochs as a whole number of at least 1"):
        batches(DOCUMENTS, batch=1, seq=4, epochs=0)
