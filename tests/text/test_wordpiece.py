"""WordPiece against the `tokenizers` package, and at the door."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from llmlab.text.wordpiece import WordPiece, wordpiece_of_json

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdeü中文1$!'", *(f"##{c}" for c in "abcde1"), "ab", "##cd", "ß", "é"]


def theirs(lower=True):
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(VOCAB)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


# Blocks that newer versions of Unicode have added nothing to: the package and Python may know different ones.
SCRIPTS = [(0, 0x52F), (0x2000, 0x2064), (0x3000, 0x30FF), (0x3400, 0x9FA5), (0xE000, 0xE0FF), (0xF900, 0xFAD9)]
SCRIPTS += [(0xFFF9, 0xFFFD), (0x1F300, 0x1F64F), (0x20000, 0x200FF)]
SOME = st.text(
    st.one_of(
        st.sampled_from("aAbBcdeÜüéÉ中文1$! \t\n\u00a0\u0301ß'_"),
        *(st.characters(min_codepoint=low, max_codepoint=high) for low, high in SCRIPTS),
    ),
    max_size=30,
)


@given(text=SOME, lower=st.booleans())
def test_ids_are_those_of_the_tokenizers_package(text, lower):
    reference = theirs(lower)
    assert wordpiece_of_json(reference.to_str()).encode(text) == reference.encode(text).ids


def test_the_longest_known_part_goes_first_and_a_word_it_cannot_spell_is_unknown():
    tokenizer = WordPiece(VOCAB)
    assert [tokenizer.vocab[i] for i in tokenizer.encode("abcd zab a" + "b" * 100)] == ["ab", "##cd", "[UNK]", "[UNK]"]
    assert tokenizer.decode(tokenizer.encode("ABcd, ab!")) == "abcd [UNK] ab !"


def test_the_look_ups_for_a_word_grow_as_its_length():
    asked = []

    class Ids(dict):
        def get(self, part):
            asked.append(part)
            return dict.get(self, part)

    tokenizer = WordPiece(VOCAB, longest_word=10**6)
    tokenizer._id = Ids(tokenizer._id)
    for n in (1000, 16_000):
        asked.clear()
        assert len(tokenizer.encode("a" + "b" * n)) == n  # ab and then ##b
        assert len(asked) <= 5 * n + 5  # "[PAD]" has 5 characters, as many as the longest token


def test_lists_are_wanted_where_a_text_would_do_as_a_list_of_characters():
    with pytest.raises(ValueError, match=r"vocab must be a list, got one string"):
        WordPiece("abc")
    with pytest.raises(ValueError, match=r"texts must be a list, got one string, 'a text': pass \[text\]"):
        WordPiece(VOCAB).batch("a text")


def test_a_batch_is_framed_cut_and_padded():
    rows, lengths = WordPiece(VOCAB).batch(["a", "a b c d e"], max_seq=5)
    assert rows == [[2, 4, 3, 0, 0], [2, 4, 5, 6, 3]] and lengths == [3, 5]
    with pytest.raises(ValueError, match="max_seq .*of at least 2; got 1"):
        WordPiece(VOCAB).batch(["a"], max_seq=1)


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("model", "type"), "BPE", "must hold a WordPiece that continues with ##, got 'BPE'"),
        (("model", "continuing_subword_prefix"), "@@", "continues with ##"),
        (("normalizer", "clean_text"), False, "clean text as BERT does"),
        (("normalizer", "strip_accents"), False, "clean text as BERT does"),
        (("normalizer",), None, "must have a 'normalizer'"),
        (("model", "vocab"), {"[UNK]": 1}, "each id from 0 to 0 once"),
        (("model", "vocab"), {"[UNK]": 0}, "needs distinct tokens"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(path, value, message):
    content = json.loads(theirs().to_str())
    part = content
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        wordpiece_of_json(json.dumps(content))
