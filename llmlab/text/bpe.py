"""Byte-level byte-pair encoding: start from the 256 bytes, join the most frequent adjacent pair, again and again.

Sennrich et al. 2016 (arXiv 1508.07909), section 3.2, on bytes as in GPT-2 (Radford et al. 2019): any text, in any
script, and even bytes that are no text at all, can be encoded and comes back unchanged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from llmlab.arguments import choice, flag, instance, string, whole

from .checks import checked_documents, checked_ids, checked_list
from .joining import join
from .merging import Pair, learn_merges
from .pieces import PATTERNS, normal, pieces

CACHED_PIECES = 1 << 18  # a bound on memory: megabytes of text have fewer different pieces
CACHED_LENGTH = 64  # characters; what is longer than a word rarely comes twice


class BPE:
    """A byte-level BPE tokenizer: `vocab[i]` is the bytes of token i, `merges` the pairs in the order learned.

    specials: whole tokens such as "<|endoftext|>", id by text; they are never made by merging.
    pattern: how text is cut into pieces first, see `pieces`.  whole_pieces: take a piece that is a token as that token,
    even if no merges lead to it (as Llama 3 does).
    """

    def __init__(
        self,
        vocab: Sequence[bytes],
        merges: Iterable[tuple[bytes, bytes]],
        specials: dict[str, int] | None = None,
        pattern: str = "gpt2",
        whole_pieces: bool = False,
    ):
        choice("BPE", "pattern", pattern, PATTERNS)
        self.pattern, self.whole_pieces = pattern, flag("BPE", "whole_pieces", whole_pieces)
        self.specials = dict(instance("BPE", "specials", {} if specials is None else specials, Mapping, "{text: id}"))
        self.vocab = [
            instance("BPE", "each token of vocab", token, bytes) for token in checked_list("vocab", vocab, "[token]")
        ]
        self.merges = [_pair(merge) for merge in checked_list("merges", merges, "[(left, right)]")]
        special_ids = set(self.specials.values())
        id_of = {token: i for i, token in enumerate(self.vocab) if i not in special_ids}
        missing = [byte for byte in range(256) if bytes([byte]) not in id_of]
        if missing:
            raise ValueError(f"a byte-level vocabulary needs all 256 bytes, {len(missing)} are missing: {missing[:8]}")
        self._byte_ids = [id_of[bytes([byte])] for byte in range(256)]
        self._rules: dict[Pair, tuple[int, int]] = {}  # the earlier a pair was learned, the sooner it is merged
        for rank, (a, b) in enumerate(self.merges):
            if a not in id_of or b not in id_of or a + b not in id_of:
                raise ValueError(f"merge {rank} joins {a!r} and {b!r}: both and the result must be in the vocabulary")
            self._rules[id_of[a], id_of[b]] = rank, id_of[a + b]
        self._whole = id_of if whole_pieces else {}
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls,
        documents: Iterable[str],
        vocab_size: int = 512,
        specials: Sequence[str] = (),
        pattern: str = "gpt2",
    ) -> BPE:
        """Learn merges until there are `vocab_size` tokens, or no pair left that occurs twice.

        Ids: 0 to 255 are the bytes, then the merges in order, then the specials. Ties go to the pair of smaller ids.
        """
        specials = checked_list("specials", specials, "specials=[text]")
        specials = [string("BPE", "each of specials", special) for special in specials]
        if "" in specials or len(set(specials)) < len(specials):
            raise ValueError(f"specials must be different texts, none of them empty, got {specials!r}")
        if whole("BPE", "vocab_size", vocab_size) < 256 + len(specials):
            extra = f" and {len(specials)} specials" if specials else ""
            raise ValueError(f"byte-level BPE starts from 256 bytes{extra}, got vocab_size={vocab_size}")
        choice("BPE", "pattern", pattern, PATTERNS)
        counts = Counter[str]()
        for document in checked_documents(documents):
            counts.update(pieces(document, pattern))
        if not counts:
            raise ValueError("BPE needs text to learn from, got an empty corpus")
        vocab, merges = learn_merges(counts, vocab_size - len(specials))
        ids = {special: len(vocab) + i for i, special in enumerate(specials)}
        return cls(vocab + [special.encode() for special in specials], merges, ids, pattern)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def after(self, merges: int) -> BPE:
        """Return the tokenizer as it was after its first `merges` merges; the specials follow them."""
        merges = whole("after", "merges (as many as were learned, or fewer)", merges, least=0, most=len(self.merges))
        made = [token for rank, token in self._rules.values() if rank < merges]
        kept = sorted({i for i in [*self._byte_ids, *made] if i < self.vocab_size})
        specials = sorted(self.specials, key=self.specials.__getitem__)
        vocab = [self.vocab[i] for i in kept] + [special.encode() for special in specials]
        ids = {special: len(kept) + i for i, special in enumerate(specials)}
        return BPE(vocab, self.merges[:merges], ids, self.pattern, self.whole_pieces)

    def encode(self, text: str | bytes, specials: bool = False) -> list[int]:
        """Turn text, or any bytes, into token ids.

        specials: read "<|endoftext|>" and the like as one token. Off by default: text from outside must not be able to
        end a document or start a system prompt.
        """
        flag("encode", "specials", specials)
        instance("encode", "text", text, (str, bytes))
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")  # a broken byte rides along as U+DC80 + byte
        if specials and self.specials:
            return self._encode_with_specials(text)
        ids: list[int] = []
        cache = self._cache
        for piece in pieces(normal(text, self.pattern), self.pattern):
            known = cache.get(piece)
            ids += known if known is not None else self._encode_piece(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text; bytes that are no UTF-8 become U+FFFD (use `decode_bytes` to keep them)."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids back into the bytes they stand for, whole characters or not."""
        return b"".join(self.vocab[i] for i in checked_ids(ids, len(self.vocab)))

    def _encode_with_specials(self, text: str) -> list[int]:
        longest_first = sorted(self.specials, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        return [i for part in parts for i in ([self.specials[part]] if part in self.specials else self.encode(part))]

    def _encode_piece(self, piece: str) -> list[int]:
        """Apply the earliest-learned merge that fits, everywhere, until none fits."""
        try:
            raw = piece.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text must be Unicode without lone surrogates, got {error.object[error.start]!r}"
            ) from None
        whole = self._whole.get(raw)
        ids = join([self._byte_ids[byte] for byte in raw], self._rules) if whole is None else [whole]
        if len(piece) <= CACHED_LENGTH:
            if len(self._cache) >= CACHED_PIECES:
                self._cache.clear()
            self._cache[piece] = ids
        return ids

    def __reduce__(self) -> tuple:  # the cache does not travel
        return BPE, (self.vocab, self.merges, self.specials, self.pattern, self.whole_pieces)

    def __repr__(self) -> str:
        return f"BPE(vocab_size={self.vocab_size}, pattern={self.pattern!r})"


def _pair(merge: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    if not isinstance(merge, (tuple, list)) or [type(part) for part in merge] != [bytes, bytes]:
        raise ValueError(f"merges must be pairs of bytes, got {merge!r}")
    return merge[0], merge[1]
