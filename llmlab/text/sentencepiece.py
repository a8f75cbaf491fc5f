"""SentencePiece's byte-pair encoding (Kudo and Richardson 2018), as Llama 2, Mistral and many others use it.

    "Hi 😀" -> ▁Hi▁😀 -> ▁ H i ▁ 😀 -> ▁Hi ▁ 😀 -> ▁Hi ▁ <0xF0> <0x9F> <0x98> <0x80>

Text is not cut first: blanks become ▁, and one more is put before the text. Then characters, not bytes, are joined; of
all neighbours that together make a token, those whose token has the highest score come first. A character that is left
over and is no token is spelled in its UTF-8 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from llmlab.arguments import choice, flag, instance

from .checks import checked_ids, checked_list
from .joining import Rules, join

BLANK = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PREFIXES = ("every", "missing", "first", "none")


class SentencePiece:
    """A SentencePiece BPE: `vocab[i]` is the bytes of token i.

    pieces: the tokens in the order of their ids, a blank written ▁ and a byte <0x0A>.  rules: which two strings are
    joined, see `joining`.  specials: id by text, never made by joining.  always: ids by text of tokens that are found
    in any text before all else.  prefix: whether the blank is put before "every" stretch of text between two specials,
    where it is "missing", before the "first" if it is missing there, or before "none".
    """

    def __init__(
        self,
        pieces: Sequence[str],
        rules: Rules[str],
        specials: Mapping[str, int] | None = None,
        always: Mapping[str, int] | None = None,
        prefix: str = "every",
    ):
        self.prefix = choice("SentencePiece", "prefix", prefix, PREFIXES)
        self.pieces = list(checked_list("pieces", pieces, "[piece]"))
        self.specials, self.always = (
            dict(instance("SentencePiece", name, {} if ids is None else ids, Mapping, "write {text: id}"))
            for name, ids in (("specials", specials), ("always", always))
        )
        apart = {*self.specials.values(), *self.always.values()}
        self._id = {piece: i for i, piece in enumerate(self.pieces) if i not in apart}
        if missing := [byte for byte in BYTES if byte not in self._id]:
            raise ValueError(f"a SentencePiece vocabulary needs all 256 bytes, {len(missing)} missing: {missing[:4]}")
        self._bytes = [self._id.pop(byte) for byte in BYTES]
        self._rules = instance("SentencePiece", "rules", rules, Mapping, "see llmlab.text.joining")
        byte_of = {i: bytes([byte]) for byte, i in enumerate(self._bytes)}
        self.vocab = [
            piece.encode() if i in apart else byte_of.get(i) or piece.replace(BLANK, " ").encode()
            for i, piece in enumerate(self.pieces)
        ]

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def encode(self, text: str | bytes, specials: bool = False) -> list[int]:
        """Turn text, or any bytes, into token ids, without a token for the beginning.

        specials: read "<s>" and the like as one token; off by default, as in `BPE`.
        """
        flag("encode", "specials", specials)
        instance("encode", "text", text, (str, bytes))
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        whole = self.always | (self.specials if specials else {})
        longest_first = sorted(whole, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text) if whole else [text]
        ids: list[int] = []
        for i, part in enumerate(parts):  # every second one is a token as it stands
            ids += [whole[part]] if i % 2 else self._encode_part(part, first=not i) if part else []
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text, without the blank that was put before it; broken characters become U+FFFD."""
        text = self.decode_bytes(ids).decode("utf-8", "replace")
        return text if self.prefix == "none" else text.removeprefix(" ")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids into the bytes they stand for, the blank before the text with them."""
        return b"".join(self.vocab[i] for i in checked_ids(ids, self.vocab_size))

    def _encode_part(self, part: str, first: bool) -> list[int]:
        part = part.replace(" ", BLANK)
        missing = not part.startswith(BLANK)
        if {"every": True, "missing": missing, "first": first and missing, "none": False}[self.prefix]:
            part = BLANK + part
        ids: list[int] = []
        for piece in join(part, self._rules):
            known = self._id.get(piece)
            ids += [known] if known is not None else self._spell(piece)
        return ids

    def _spell(self, character: str) -> list[int]:
        try:
            return [self._bytes[byte] for byte in character.encode("utf-8", "surrogateescape")]
        except UnicodeEncodeError:
            raise ValueError(f"text must be Unicode without lone surrogates, got {character!r}") from None

    def __repr__(self) -> str:
        return f"SentencePiece(vocab_size={self.vocab_size}, prefix={self.prefix!r})"


def rules_of_scores(scores: Mapping[str, float]) -> dict[tuple[str, str], tuple[int, str]]:
    """Make the rules that join two strings to each token; the higher its score, the lower their rank."""
    rank = {score: i for i, score in enumerate(sorted(set(scores.values()), reverse=True))}

    def stands(part: str) -> bool:
        return len(part) == 1 or part in scores

    return {
        (token[:cut], token[cut:]): (rank[score], token)
        for token, score in scores.items()
        for cut in range(1, len(token))
        if stands(token[:cut]) and stands(token[cut:])
    }


def rules_of_merges(merges: Iterable[Sequence[str]]) -> dict[tuple[str, str], tuple[int, str]]:
    """Make the rules of a list of merges, the first of which comes first."""
    return {(a, b): (rank, a + b) for rank, (a, b) in enumerate(merges)}
