"""Byte-level BPE whose published vocabulary lacks bytes its authors never met, as SmolLM2's lacks 21 of the 256.

Those occur in control characters, broken UTF-8 and scripts no one uses yet; text that holds one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .bpe import BPE
from .published import from_spelled, spell


class IncompleteBPE(BPE):
    """A BPE that has no token for some bytes, and raises ValueError where a text needs one."""

    def __init__(
        self,
        vocab: Sequence[bytes],
        merges: Iterable[tuple[bytes, bytes]],
        specials: dict[str, int] | None = None,
        pattern: str = "gpt2",
        whole_pieces: bool = False,
    ):
        present = {token for i, token in enumerate(vocab) if i not in set((specials or {}).values())}
        self.absent = [bytes([byte]) for byte in range(256) if bytes([byte]) not in present]
        super().__init__([*vocab, *self.absent], merges, specials, pattern, whole_pieces)
        del self.vocab[len(vocab) :]  # what stands for them while encoding is no token of the model's

    def encode(self, text: str | bytes, specials: bool = False) -> list[int]:
        """Turn text into token ids as `BPE` does."""
        ids = super().encode(text, specials)
        if ids and (top := max(ids)) >= self.vocab_size:
            byte = self.absent[top - self.vocab_size]
            raise ValueError(f"text must do without the {len(self.absent)} bytes this vocabulary lacks, got {byte!r}")
        return ids

    def __reduce__(self) -> tuple:
        return IncompleteBPE, (self.vocab, self.merges, self.specials, self.pattern, self.whole_pieces)


def bpe_of_spelled(
    vocab: Mapping[str, int],
    merges: Iterable[str | tuple[str, str] | list[str]],
    specials: Iterable[str] = (),
    pattern: str = "gpt2",
    whole_pieces: bool = False,
) -> BPE:
    """Make a BPE as `from_spelled` does, if need be one without some bytes."""
    absent = [spelled for byte in range(256) if (spelled := spell(bytes([byte]))) not in vocab]
    padded = {**vocab, **{x: len(vocab) + i for i, x in enumerate(absent)}}
    whole = from_spelled(padded, merges, specials, pattern, whole_pieces)
    if not absent:
        return whole
    return IncompleteBPE(whole.vocab[: len(vocab)], whole.merges, whole.specials, pattern, whole_pieces)
