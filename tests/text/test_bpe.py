"""Byte-level BPE: what it learns, what comes back, and what it refuses."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.text import BPE, load
from llmlab.text.merging import learn_merges
from llmlab.text.pieces import pieces
from tests.text.counting import count_steps

TEXTS = [
    "the theory of the thing is that the other thing",
    "def f(x):\n    return x + 1\n\n\n        # aaaa aaaaaaa\n",
    "今天天气很好，去公园。今天天气不好，不去公园。",
    "naïve café — 😀👨‍👩‍👧 ½ ² Ⅷ don't",
]


def count_and_merge(counts: Counter[str], vocab_size: int) -> list[tuple[bytes, bytes]]:
    """The definition, with every pair counted afresh each time: most frequent first, then the pair of smaller ids."""
    words = [([bytes([byte]) for byte in piece.encode()], n) for piece, n in counts.items()]
    ids = {bytes([byte]): byte for byte in range(256)}
    merges = []
    while len(ids) < vocab_size:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, n in words:
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += n
        if not pairs or max(pairs.values()) < 2:
            break
        a, b = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        ids.setdefault(a + b, len(ids))
        merges.append((a, b))
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (a, b):
                    word[i : i + 2] = [a + b]
                i += 1
    return merges


def test_the_first_merges_are_the_ones_worked_out_by_hand():
    bpe = BPE.train(["low low low low low lower lower newest newest newest newest newest newest"], vocab_size=260)
    # " low" stands 6 times, "low" once; "we": 2 in lower, 6 in newest; each of (e,s), (s,t), (n,e), ( ,n) 6 times.
    assert bpe.merges[0] == (b"w", b"e")  # 8
    assert bpe.merges[1] == (b"l", b"o")  # 7, where " l" and "ow" have fewer or larger ids
    assert bpe.vocab[256:258] == [b"we", b"lo"]


@given(st.lists(st.text(alphabet="ab é", min_size=1, max_size=12), min_size=1, max_size=8), st.integers(257, 280))
@settings(max_examples=200)
def test_merges_with_an_index_equal_merges_with_every_pair_counted_afresh(texts, vocab_size):
    counts = Counter(piece for text in texts for piece in pieces(text))
    assert learn_merges(counts, vocab_size)[1] == count_and_merge(counts, vocab_size)


def test_merges_of_real_text_equal_merges_with_every_pair_counted_afresh():
    counts = Counter(piece for text in load("python", max_bytes=30_000) for piece in pieces(text))
    assert learn_merges(counts, 356)[1] == count_and_merge(counts, 356)


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE.train(TEXTS * 3, vocab_size=360, specials=["<|endoftext|>"])


@given(st.text() | st.sampled_from(TEXTS))
def test_any_text_comes_back(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


@given(st.binary())
def test_any_bytes_come_back_even_when_they_are_no_text(bpe, raw):
    assert bpe.decode_bytes(bpe.encode(raw)) == raw


def test_a_character_cut_in_two_decodes_to_the_replacement_character(bpe):
    assert BPE.train(["x"], 256).decode("好".encode()[:2]) == "\ufffd"


def test_encoding_applies_the_earliest_learned_merge_first():
    vocab = [bytes([byte]) for byte in range(256)] + [b"ab", b"bc"]
    assert BPE(vocab, [(b"a", b"b"), (b"b", b"c")]).encode("abc") == [256, ord("c")]
    assert BPE(vocab, [(b"b", b"c"), (b"a", b"b")]).encode("abc") == [ord("a"), 257]


def test_a_run_of_one_letter_is_joined_from_the_left():
    bpe = BPE([bytes([byte]) for byte in range(256)] + [b"aa"], [(b"a", b"a")])
    assert bpe.encode("aaaaa") == [256, 256, ord("a")]


BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # without digits and signs: one long piece
KINDS = {"one character": " ", "few": "theory", "base64": BASE64}


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_to_encode_a_long_piece_grow_hardly_faster_than_its_length(kind):
    def steps(n: int) -> int:
        text = "".join(random.Random(0).choices(KINDS[kind], k=n))
        bpe = BPE.train([text[:2000], *TEXTS], 400)
        return count_steps(bpe._rules, lambda rules: setattr(bpe, "_rules", rules), lambda: bpe.encode(text))

    few, many = steps(1_000), steps(8_000)
    assert 1_000 < few and many < 8 * 1.5 * few  # n log n: a factor of 8 log(8,000)/log(1,000) = 8 * 1.30


def test_what_a_piece_was_encoded_to_is_kept_for_short_ones_only(bpe):
    bpe.encode(" " * 1000 + "x")
    assert all(len(piece) <= 64 for piece in bpe._cache)


def test_a_larger_vocabulary_makes_shorter_sequences():
    documents = load("python", max_bytes=100_000)
    tokenizers = [BPE.train(documents, size) for size in (256, 400, 1000)]
    lengths = [sum(len(bpe.encode(text)) for text in documents) for bpe in tokenizers]
    assert lengths[0] == sum(len(text.encode()) for text in documents)  # 256: bytes
    assert lengths[0] > 1.3 * lengths[1] and lengths[1] > 1.2 * lengths[2]


def test_training_stops_when_no_pair_occurs_twice():
    bpe = BPE.train(["ab ab"], vocab_size=10_000)
    assert bpe.vocab_size == 257 and bpe.merges == [(b"a", b"b")]  # " ab" occurs once


def test_specials_are_one_token_only_when_asked_for(bpe):
    end = bpe.specials["<|endoftext|>"]
    assert end == bpe.vocab_size - 1 == 359
    assert bpe.encode("one<|endoftext|>two", specials=True) == [*bpe.encode("one"), end, *bpe.encode("two")]
    assert end not in bpe.encode("one<|endoftext|>two")
    assert bpe.decode([end]) == "<|endoftext|>"


def test_the_longest_special_wins():
    bpe = BPE.train(["x"], 258, specials=["<a>", "<a><b>"])
    assert bpe.encode("<a><b>", specials=True) == [bpe.specials["<a><b>"]]


def test_a_tokenizer_travels_without_its_cache(bpe):
    bpe.encode(TEXTS[0])
    copy = pickle.loads(pickle.dumps(bpe))
    assert copy._cache == {} and copy.encode(TEXTS[2]) == bpe.encode(TEXTS[2])


def test_ids_may_come_as_a_tensor(bpe):
    assert bpe.decode(torch.tensor(bpe.encode(TEXTS[2]))) == TEXTS[2]


def test_bad_input_is_refused_at_the_door(bpe):
    with pytest.raises(ValueError, match="256 bytes, got vocab_size=255"):
        BPE.train(["text"], vocab_size=255)
    with pytest.raises(ValueError, match="256 bytes and 1 specials, got vocab_size=256"):
        BPE.train(["text"], vocab_size=256, specials=["<end>"])
    for empty in ([], [""]):
        with pytest.raises(ValueError, match="empty corpus"):
            BPE.train(empty)
    with pytest.raises(ValueError, match="got one string"):
        BPE.train("one string")
    with pytest.raises(ValueError, match=r"specials must be a list, got one string, '<end>': pass specials=\[text\]"):
        BPE.train(["text"], 300, specials="<end>")
    with pytest.raises(ValueError, match="documents must be strings, got one that is of type int"):
        BPE.train([1, 2])
    for ids in ("12", [1.0], ["1"], None, 5):
        with pytest.raises(ValueError, match="token ids must be"):
            bpe.decode(ids)
    for outside in (-1, 360):
        with pytest.raises(ValueError, match=rf"0\.\.359, got {outside}"):
            bpe.decode([0, outside])
    with pytest.raises(ValueError, match="lone surrogates"):
        bpe.encode("\ud800")
    with pytest.raises(ValueError, match="'gpt2', 'digits'"):
        BPE.train(["text"], pattern="words")
    with pytest.raises(ValueError, match="1 are missing"):
        BPE([bytes([byte]) for byte in range(255)], [])
    with pytest.raises(ValueError, match="merge 0 joins"):
        BPE([bytes([byte]) for byte in range(256)], [(b"a", b"b")])


def test_a_tokenizer_after_fewer_merges_is_one_trained_to_fewer():
    large, small = (BPE.train(TEXTS * 3, size, specials=["<end>"]) for size in (400, 300))
    earlier = large.after(len(small.merges))
    assert (earlier.vocab, earlier.merges, earlier.specials) == (small.vocab, small.merges, small.specials)
    assert large.after(0).encode("the é") == list("the é".encode())
    assert large.after(len(large.merges)).vocab == large.vocab
    with pytest.raises(ValueError, match="merges .*as a whole number from 0 to 114; got 115"):
        large.after(len(large.merges) + 1)
