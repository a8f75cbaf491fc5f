"""WordPiece, as BERT uses it: words are spelled in the longest known parts, from the left (Wu et al. 2016, sec. 4.1).

    "Unaffable!" -> unaffable | ! -> una ##ffa ##ble !         ## marks a part that continues a word

Before that, text is cleaned, lower-cased, its accents are dropped, and it is cut at blanks, around punctuation and
around each Chinese character (Devlin et al. 2019, and the code published with it).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from llmlab.arguments import flag, string, whole

from .checks import checked_ids, checked_list

MARK = "##"
CHINESE = (  # the blocks of CJK ideographs that the published code names
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


class WordPiece:
    """BERT's tokenizer: `vocab[i]` is the text of token i. Words it cannot spell become `unknown`."""

    def __init__(self, vocab: Sequence[str], lower: bool = True, unknown: str = "[UNK]", longest_word: int = 100):
        """longest_word: characters; longer ones are not even tried."""
        self.vocab = list(checked_list("vocab", vocab, "[token]"))
        self.lower = flag("WordPiece", "lower", lower)
        self.longest_word = whole("WordPiece", "longest_word", longest_word, least=1)
        self._id = {token: i for i, token in enumerate(self.vocab)}
        self._longest = max(map(len, self.vocab), default=0)
        absent = [token for token in (unknown, "[CLS]", "[SEP]", "[PAD]") if token not in self._id]
        if absent or len(self._id) != len(self.vocab):
            raise ValueError(
                f"a WordPiece vocabulary needs distinct tokens and {unknown}, [CLS], [SEP], [PAD]; lacks {absent}"
            )
        self.unknown, self.pad = self._id[unknown], self._id["[PAD]"]
        self.start, self.end = self._id["[CLS]"], self._id["[SEP]"]

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids, without [CLS] and [SEP]."""
        return [i for word in basic_words(text, self.lower) for i in self._spell(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into words with blanks between; case, accents and the blanks of the text are lost."""
        return " ".join(self.vocab[i] for i in checked_ids(ids, self.vocab_size)).replace(" " + MARK, "")

    def batch(self, texts: Iterable[str], max_seq: int = 256) -> tuple[list[list[int]], list[int]]:
        """Make rows of [CLS] text [SEP], all padded to the longest, and say how long each is; long ones are cut."""
        whole("batch", "max_seq ([CLS], [SEP] and what is between)", max_seq, least=2)
        rows = [
            [self.start, *self.encode(text)[: max_seq - 2], self.end] for text in checked_list("texts", texts, "[text]")
        ]
        lengths = [len(row) for row in rows]
        longest = max(lengths, default=0)
        return [row + [self.pad] * (longest - len(row)) for row in rows], lengths

    def _spell(self, word: str) -> list[int]:
        """Take the longest known part from the left, again and again; a rest that none fits spoils the whole word."""
        if len(word) > self.longest_word:
            return [self.unknown]
        ids, start = [], 0
        while start < len(word):
            for stop in range(min(len(word), start + self._longest), start, -1):
                found = self._id.get((MARK if start else "") + word[start:stop])
                if found is not None:
                    break
            else:
                return [self.unknown]
            ids.append(found)
            start = stop
        return ids


def basic_words(text: str, lower: bool = True) -> list[str]:
    """Cut text into words, punctuation marks and Chinese characters."""
    text = "".join(map(_spaced, string("basic_words", "text", text)))
    if lower:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn").lower()
    return "".join(f" {c} " if _is_punctuation(c) else c for c in text).split()


def _spaced(c: str) -> str:
    """Drop what prints nothing, make every blank one space, and set Chinese characters apart."""
    if c in "\t\n\r" or unicodedata.category(c) == "Zs":
        return " "
    if c in "\0\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co"):
        return ""
    return f" {c} " if any(low <= ord(c) <= high for low, high in CHINESE) else c


def _is_punctuation(c: str) -> bool:
    """Whether it is one to Unicode, or a sign of ASCII such as $ and + that is not."""
    return unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")


def wordpiece_of_json(text: str) -> WordPiece:
    """Read a WordPiece from the text of Hugging Face's `tokenizer.json`.

    Raises: ValueError for another kind of model, and for other ways of cleaning text than BERT's.
    """
    content = json.loads(text)
    model, normalizer = _part(content, "model"), _part(content, "normalizer")
    if model.get("type") != "WordPiece" or model.get("continuing_subword_prefix") != MARK:
        raise ValueError(f"tokenizer.json must hold a WordPiece that continues with {MARK}, got {model.get('type')!r}")
    plain = normalizer.get("clean_text") and normalizer.get("handle_chinese_chars")
    lower, strip = normalizer.get("lowercase"), normalizer.get("strip_accents")
    if normalizer.get("type") != "BertNormalizer" or not plain or strip not in (None, lower):
        raise ValueError(f"tokenizer.json must clean text as BERT does, got {json.dumps(normalizer)}")
    ids: Mapping[str, int] = model.get("vocab") or {}
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"a vocabulary of {len(ids)} tokens needs each id from 0 to {len(ids) - 1} once")
    vocab = sorted(ids, key=lambda token: ids[token])
    return WordPiece(vocab, bool(lower), model.get("unk_token", "[UNK]"), model.get("max_input_chars_per_word", 100))


def _part(content: object, name: str) -> dict:
    part = content.get(name) if isinstance(content, dict) else None
    if not isinstance(part, dict):
        raise ValueError(f"tokenizer.json must have a {name!r}, got {part!r}")
    return part
