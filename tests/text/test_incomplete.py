"""A byte-level vocabulary that lacks bytes."""

import copy
import pickle

import pytest

from llmlab.text import BPE
from llmlab.text.incomplete import IncompleteBPE, bpe_of_spelled
from llmlab.text.published import spell

WHOLE = BPE.train(["the cat and the hat, the mat"], vocab_size=262)


def spelled(lacking=b""):
    kept = [token for token in WHOLE.vocab if token not in [bytes([byte]) for byte in lacking]]
    merges = [f"{spell(a)} {spell(b)}" for a, b in WHOLE.merges]
    return bpe_of_spelled({"<|end|>": 0} | {spell(t): i + 1 for i, t in enumerate(kept)}, merges, ["<|end|>"])


def test_text_that_needs_no_missing_byte_is_encoded_as_ever():
    bpe = spelled(lacking=b"\x04\xff")
    text = "the hat <|end|> 中 é"
    assert bpe.vocab_size == len(bpe.vocab) == WHOLE.vocab_size - 2 + 1
    parts = [WHOLE.vocab[i] for i in WHOLE.encode(text)]
    assert [bpe.vocab[i] for i in bpe.encode(text)] == parts and bpe.decode(bpe.encode(text)) == text
    assert bpe.encode("the<|end|>", specials=True)[-1] == 0


@pytest.mark.parametrize("again", [lambda bpe: bpe, copy.deepcopy, lambda bpe: pickle.loads(pickle.dumps(bpe))])
def test_text_that_needs_a_missing_byte_is_refused_every_time(again):
    bpe = again(spelled(lacking=b"\x04\xff"))
    for text in ("the\x04hat", "the\x04hat", b"\xff"):
        with pytest.raises(ValueError, match="do without the 2 bytes this vocabulary lacks, got b'"):
            bpe.encode(text)
    with pytest.raises(ValueError, match=f"got {bpe.vocab_size}"):
        bpe.decode([bpe.vocab_size])


def test_a_vocabulary_with_all_bytes_is_a_plain_one():
    assert type(spelled()) is BPE and type(spelled(lacking=b"\x04")) is IncompleteBPE
