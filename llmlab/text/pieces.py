"""How text is cut into pieces before byte-level BPE merges inside each: GPT-2's rule and those that came of it.

The rule (Radford et al. 2019, section 2.2; the pattern is the one in OpenAI's published encoder) in words: an English
contraction's tail, or a run of letters, of numbers, or of anything else, each with one blank before it; or a run of
blanks, which leaves its last one to the word that follows. No piece is lost: joined, they are the text again.

Llama 3's rule (the pattern in its published tokenizer) lets any one sign, not the blank alone, go with the letters that
follow; takes numbers by at most three; and keeps line ends with the signs or blanks before them. Qwen2's is the same
with each number on its own.

The pattern is usually written with \\p{L} and \\p{N} of the third-party package `regex`. The standard library's `re`
has no such classes, but its \\w is exactly letters, numbers and the underscore: both follow from the numbers alone.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from llmlab.arguments import choice, string

PATTERNS = ("gpt2", "digits", "llama3", "qwen2")
# Unicode's White_Space. Python's \s also takes the separators U+001C to U+001F, which other tokenizers do not.
WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SEPARATORS = "\x1c\x1d\x1e\x1f"


def pieces(text: str, pattern: str = "gpt2") -> list[str]:
    """Cut text into the pieces that BPE never merges across.

    pattern: "gpt2", "digits" for GPT-2's rule with every digit on its own first (as SmolLM2 does), "llama3", "qwen2".
    """
    string("pieces", "text", text)
    choice("pieces", "pattern", pattern, PATTERNS)
    # Naming every rare number makes the pattern ten times slower, so a text without any is cut by a plainer one.
    rule = _plain(pattern) if _rare().isdisjoint(text) else _exact(pattern)
    if pattern != "digits":
        return rule.findall(text)
    # Digits first: what stands between two of them is cut as if it were a whole text.
    return [piece for part in _number().split(text) if part for piece in rule.findall(part)]


def normal(text: str, pattern: str) -> str:
    """Bring text into the form that a pattern was made for: Qwen2's wants Unicode's NFC, the others take any."""
    return unicodedata.normalize("NFC", text) if pattern == "qwen2" else text


@lru_cache(maxsize=1)
def _other_numbers() -> str:
    """Unicode's numbers that are no decimal digits, such as ² and Ⅷ: 1131 of them in Unicode 14."""
    # Beyond U+1FFFF only Chinese numerals are numeric, and those are letters.
    return "".join(c for c in map(chr, range(0x80, 0x20000)) if c.isnumeric() and not c.isdecimal() and not c.isalpha())


@lru_cache(maxsize=1)
def _rare() -> frozenset[str]:
    return frozenset(_other_numbers() + SEPARATORS)


@lru_cache(maxsize=1)
def _number() -> re.Pattern[str]:
    return re.compile(f"([\\d{_other_numbers()}])")


@lru_cache
def _plain(pattern: str = "gpt2") -> re.Pattern[str]:
    return _compiled(pattern, number="\\d", white="\\s")


@lru_cache
def _exact(pattern: str = "gpt2") -> re.Pattern[str]:
    return _compiled(pattern, number="\\d" + _other_numbers(), white=WHITE)


def _compiled(pattern: str, number: str, white: str) -> re.Pattern[str]:
    if pattern in ("llama3", "qwen2"):
        return re.compile(_llama3(number, white, "{1,3}" if pattern == "llama3" else ""))
    return re.compile(_gpt2(number, white))


def _gpt2(number: str, white: str) -> str:
    """GPT-2's rule, given the insides of the two character classes."""
    return (
        "'(?:s|t|re|ve|m|ll|d)"
        f"| ?[^\\W_{number}]+"  # letters: \w without the underscore and the numbers
        f"| ?[{number}]+"
        f"| ?(?:[^\\w{white}]|_)+"
        f"|[{white}]+(?![^{white}])"  # blanks, but the last one goes with the word after it
        f"|[{white}]+"
    )


def _llama3(number: str, white: str, at_once: str) -> str:
    """Llama 3's rule, given also how many numbers go together."""
    return (
        "(?i:'(?:s|t|re|ve|m|ll|d))"
        f"|(?:[^\\w\\r\\n]|_)?[^\\W_{number}]+"  # letters, with one sign or blank before them
        f"|[{number}]{at_once}"
        f"| ?(?:[^\\w{white}]|_)+[\\r\\n]*"
        f"|[{white}]*[\\r\\n]+"
        f"|[{white}]+(?![^{white}])"
        f"|[{white}]+"
    )
