"""What every score of a text beside references begins with: a list of texts, and as many with what they should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmlab.arguments import listing, string

References = Sequence[str] | Sequence[Sequence[str]]


def paired(call: str, hypotheses: Sequence[str], references: References) -> Iterator[tuple[str, list[str]]]:
    """Give each text with its references, one or several.

    Raises ValueError for lists of different lengths, for none at all, and for a text without a reference.
    """
    hypotheses, references = listing(call, "hypotheses", hypotheses), listing(call, "references", references)
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"{call} wants a list of hypotheses and as many references, got {len(hypotheses)} and {len(references)}"
        )
    for hypothesis, given in zip(hypotheses, references, strict=True):
        texts = [given] if isinstance(given, str) else listing(call, "the references of a text", given)
        if not texts:
            raise ValueError(f"{call} wants at least one reference for each hypothesis, got none")
        yield (
            string(call, "each hypothesis", hypothesis),
            [string(call, "each reference", text) for text in texts],
        )
