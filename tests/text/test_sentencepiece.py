"""SentencePiece's BPE beside the definition by scores, carried out naively, and beside `tokenizers`."""

from __future__ import annotations

import json
import pickle
import random

import pytest
import transformers as hf  # a name of it is imported when it is used: only where these tests run
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from llmlab.text import load
from llmlab.text.published import read_tokenizer_json
from llmlab.text.sentencepiece import BLANK, BYTES, SentencePiece, rules_of_merges, rules_of_scores
from tests.text.counting import count_steps

SPECIALS = {"<unk>": 0, "<s>": 1, "</s>": 2}
ODD = "naïve 今天 😀 \t\n ▁ ▁▁ e\u0301 \x00 ½² 'll"


def learned(n: int) -> list[tuple[str, str]]:
    """Learn merges of characters, blanks among them, from some English: the most frequent pair, again and again."""
    words: dict[tuple[str, ...], int] = {}
    for text in load("python", max_bytes=20_000):
        for word in text.replace("\n", " ").split(" "):
            key = (BLANK, *word)
            words[key] = words.get(key, 0) + 1
    words[(BLANK,) * 8] = 50  # and runs of blanks, as in code
    merges = []
    for _ in range(n):
        counts: dict[tuple[str, str], int] = {}
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + times
        a, b = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append((a, b))
        words = {_merged(word, a, b): times for word, times in words.items()}
    return merges


def _merged(word: tuple[str, ...], a: str, b: str) -> tuple[str, ...]:
    out: list[str] = []
    for part in word:
        if out and (out[-1], part) == (a, b):
            out[-1] = a + b
        else:
            out.append(part)
    return tuple(out)


@pytest.fixture(scope="module")
def vocabulary() -> tuple[list[str], dict[str, float]]:
    """Tokens in the order of their ids, and the scores of those that are joined: as in Llama 2, minus their number."""
    merges = learned(300)
    made = list(dict.fromkeys(a + b for a, b in merges))
    characters = sorted({c for text in load("python", max_bytes=20_000) for c in text if c.isprintable()} - {" "})
    ordinary = [*made, BLANK, *characters]
    return [*SPECIALS, *BYTES, *ordinary], {piece: -float(i) for i, piece in enumerate(ordinary)}


def merges_of(vocab: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Make the merges that `transformers` makes of scores: by score, then by the ids of the two parts."""
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found = [(a, b) for a, b in cuts if a in scores and b in scores]
        merges += sorted(found, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


def by_definition(text: str, vocab: dict[str, int], scores: dict[str, float]) -> list[int]:
    """Join, of all neighbours that make a token, the leftmost of those with the highest score, until there are none."""
    row = list(BLANK + text.replace(" ", BLANK))
    while True:
        found = [(-scores[a + b], i) for i, (a, b) in enumerate(zip(row, row[1:], strict=False)) if a + b in scores]
        if not found:
            break
        i = min(found)[1]
        row[i : i + 2] = [row[i] + row[i + 1]]
    ids = [[vocab[x]] if x in scores else [vocab[f"<0x{byte:02X}>"] for byte in x.encode()] for x in row]
    return [i for some in ids for i in some]


@pytest.fixture(scope="module")
def ours(vocabulary) -> SentencePiece:
    pieces, scores = vocabulary
    return SentencePiece(pieces, rules_of_scores(scores), SPECIALS)


def theirs(vocabulary, normalizer=None, pre_tokenizer=None) -> Tokenizer:
    pieces, scores = vocabulary
    vocab = {piece: i for i, piece in enumerate(pieces)}
    model = models.BPE(vocab, merges_of(vocab, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(list(SPECIALS))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    strip = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    return tokenizer


def adversarial() -> list[str]:
    """Runs of one character, random base64, and everything mixed."""
    draw = random.Random(0)
    base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    runs = [c * n for c in " ea▁=今" for n in (1, 2, 3, 7, 8, 9, 31)]
    mixed = ["".join(draw.choices([*ODD, *"the of in", " " * 5, "ing", "aaa"], k=40)) for _ in range(150)]
    return [ODD, *runs, *mixed, *("".join(draw.choices(base64, k=200)) for _ in range(20)), *load("python", 8000)]


def test_ids_are_those_of_the_definition(vocabulary, ours):
    pieces, scores = vocabulary
    vocab = {piece: i for i, piece in enumerate(pieces)}
    texts = [text[:400] for text in adversarial()]
    assert [text for text in texts if ours.encode(text) != by_definition(text, vocab, scores)] == []


def test_of_equal_scores_the_leftmost_pair_is_joined():
    pieces = [*SPECIALS, *BYTES, BLANK, "a", "b", "ab", "ba"]
    equal = SentencePiece(pieces, rules_of_scores({"▁": 0.0, "a": 0.0, "b": 0.0, "ab": -1.0, "ba": -1.0}), SPECIALS)
    assert [equal.pieces[i] for i in equal.encode("bab")] == [BLANK, "ba", "b"]
    assert [equal.pieces[i] for i in equal.encode("abab")] == [BLANK, "ab", "ab"]
    lower = SentencePiece(pieces, rules_of_scores({"▁": 0.0, "a": 0.0, "b": 0.0, "ab": -1.0, "ba": -2.0}), SPECIALS)
    assert [lower.pieces[i] for i in lower.encode("bab")] == [BLANK, "b", "ab"]


def test_two_characters_that_are_no_tokens_may_make_one():
    pieces = [*SPECIALS, *BYTES, BLANK, "xy"]
    odd = SentencePiece(pieces, rules_of_scores({BLANK: 0.0, "xy": -1.0}), SPECIALS)
    assert odd.encode("xy") == [pieces.index(BLANK), pieces.index("xy")]
    assert odd.encode("x") == [pieces.index(BLANK), pieces.index("<0x78>")]


LEGACY = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
KINDS = {
    "every": (LEGACY, None),
    "none": (normalizers.Replace(" ", BLANK), None),
    "missing": (None, pre_tokenizers.Metaspace(BLANK, "always", split=False)),
    "first": (None, pre_tokenizers.Metaspace(BLANK, "first", split=False)),
}


@pytest.mark.parametrize("prefix", KINDS)
def test_a_tokenizer_json_gives_the_ids_of_tokenizers(vocabulary, tmp_path, prefix):
    reference = theirs(vocabulary, *KINDS[prefix])
    reference.save(str(tmp_path / "tokenizer.json"))
    read = read_tokenizer_json(tmp_path / "tokenizer.json")
    assert isinstance(read, SentencePiece) and read.prefix == prefix and read.specials == SPECIALS
    texts = adversarial()
    assert [text for text in texts if read.encode(text) != reference.encode(text).ids] == []
    with_specials = ["<s>the</s> end", " <s> the", "<s></s>", "a</s>b</s> c", "<s>▁x"]
    for text in with_specials:
        assert read.encode(text, specials=True) == reference.encode(text).ids
        assert not set(read.encode(text)) & set(SPECIALS.values())


def test_scores_and_merges_agree_and_so_does_transformers(vocabulary, ours):
    pieces, scores = vocabulary
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = merges_of(vocab, scores)
    by_merges = SentencePiece(pieces, rules_of_merges(merges), SPECIALS, prefix="first")
    llama = hf.LlamaTokenizer(vocab=vocab, merges=merges)
    for text in adversarial():
        assert by_merges.encode(text) == llama.encode(text, add_special_tokens=False)
        if not text.startswith((" ", BLANK)):
            assert ours.encode(text) == by_merges.encode(text)


@pytest.mark.parametrize("prefix", ["every", "first"])
def test_decoding_equals_tokenizers(vocabulary, prefix):
    reference = theirs(vocabulary, *KINDS[prefix])
    tokenizer = SentencePiece(vocabulary[0], rules_of_scores(vocabulary[1]), SPECIALS, prefix=prefix)
    for text in adversarial():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=False)


@given(st.text())
def test_any_text_comes_back_with_its_blanks(ours, text):
    assert ours.decode(ours.encode(text)) == text.replace(BLANK, " ")


@given(st.binary())
def test_any_bytes_come_back(ours, raw):
    came_back = ours.decode_bytes(ours.encode(raw))
    assert came_back.removeprefix(b" ") == raw.replace(BLANK.encode(), b" ") and came_back.startswith(b" ") == bool(raw)


def test_tokens_that_are_always_found_come_before_all_else(vocabulary):
    pieces = [*vocabulary[0], "<|im_start|>"]
    chat = SentencePiece(pieces, rules_of_scores(vocabulary[1]), SPECIALS, always={"<|im_start|>": len(pieces) - 1})
    assert chat.encode("a<|im_start|>")[-1] == len(pieces) - 1 and chat.decode([len(pieces) - 1]) == "<|im_start|>"
    assert chat.encode("<s>a<|im_start|>", specials=True)[0] == 1


def test_of_two_specials_that_begin_alike_the_longest_wins(vocabulary):
    pieces = [*vocabulary[0], "<s><b>"]
    longer = SentencePiece(pieces, rules_of_scores(vocabulary[1]), {**SPECIALS, "<s><b>": len(pieces) - 1})
    assert longer.encode("<s><b><s>", specials=True) == [len(pieces) - 1, 1]


@pytest.mark.parametrize("kind", [" ", "theo", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"])
def test_the_steps_to_encode_a_long_text_grow_hardly_faster_than_its_length(vocabulary, kind):
    def steps(n: int) -> int:
        text = "".join(random.Random(0).choices(kind, k=n))
        tokenizer = SentencePiece(vocabulary[0], {}, SPECIALS)
        put = lambda rules: setattr(tokenizer, "_rules", rules)  # noqa: E731
        return count_steps(rules_of_scores(vocabulary[1]), put, lambda: tokenizer.encode(text))

    few, many = steps(1_000), steps(8_000)
    assert 1_000 < few and many < 8 * 1.5 * few  # n log n: a factor of 8 log(8,000)/log(1,000) = 8 * 1.30


def test_a_tokenizer_travels(ours):
    copy = pickle.loads(pickle.dumps(ours))
    assert copy.encode(ODD) == ours.encode(ODD)


def test_what_is_not_known_is_refused(vocabulary, ours, tmp_path):
    path = tmp_path / "tokenizer.json"

    def refused(match: str, **changes):
        content = json.loads(theirs(vocabulary, *KINDS["first"]).to_str())
        content["model"].update(changes.pop("model", {}))
        path.write_text(json.dumps(content | changes))
        with pytest.raises(ValueError, match=match):
            read_tokenizer_json(path)

    cut = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "first", "split": True}
    refused("must write blanks as SentencePiece does", pre_tokenizer=cut)
    refused("must write blanks as SentencePiece does", normalizer={"type": "NFKC"})
    refused("a merge must make a token of the vocabulary, got 'zq'", model={"merges": [["z", "q"]]})
    refused("with other options", model={"dropout": 0.1})
    path.write_text("<html>")
    with pytest.raises(ValueError, match="must be JSON"):
        read_tokenizer_json(path)
    with pytest.raises(ValueError, match="all 256 bytes, 256 missing"):
        SentencePiece(["a"], {})
    with pytest.raises(ValueError, match="lone surrogates"):
        ours.encode("\ud800")
    with pytest.raises(ValueError, match="prefix as one of"):
        SentencePiece(vocabulary[0], {}, prefix="all")
    with pytest.raises(ValueError, match="ids must be a list, got one string"):
        ours.decode("12")
