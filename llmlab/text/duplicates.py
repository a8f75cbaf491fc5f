"""Leave out what was said before: exact duplicates, and near ones by MinHash.

Two documents are near duplicates if the sets of their shingles (runs of `SHINGLE` words) overlap: Jaccard similarity
|A ∩ B| / |A ∪ B|. MinHash (Broder 1997) keeps, per document, the smallest of its shingles under each of 128 random
orders; two sets have the same smallest one with a probability of exactly their similarity. Bands of 4 such values find
the candidates without comparing all pairs (Leskovec et al., Mining of Massive Datasets, section 3.4): a pair of
similarity s is a candidate with probability 1 - (1 - s^4)^32, 1.000 at s = 0.8, and is then measured exactly.
Language models repeat less of their training text when it is cleaned so (Lee et al. 2022, arXiv 2107.06499).
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence, Set
from functools import lru_cache
from hashlib import blake2b
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from llmlab.arguments import instance, real, string

from .checks import checked_documents
from .segmentation import words

SHINGLE = 5  # words
BANDS, ROWS = 32, 4
A_SET = "what shingles(text) gives"


def deduplicate(documents: Sequence[str], near: float | None = None) -> list[str]:
    """Return the documents without repeats, the first of each kept, in order.

    Equal means equal but for case, blanks and Unicode's ways of writing one character. near: leave out, too, what has
    at least this similarity to a document kept before, such as 0.8.
    """
    if near is not None:
        real("deduplicate", "near", near, above=0, most=1)
    different: dict[str, str] = {}
    for document in checked_documents(documents):
        different.setdefault(_canonical(document), document)
    kept = list(different.values())
    if near is None:
        return kept
    repeats = {later for _, later, _ in near_duplicates(kept, near)}
    return [document for i, document in enumerate(kept) if i not in repeats]


def near_duplicates(documents: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int, float]]:
    """Return (i, j, similarity) for every document j that is as similar as that to an earlier i, itself no repeat.

    One i per j, the most similar. A document of no word at all is nobody's repeat.
    """
    real("near_duplicates", "threshold", threshold, above=0, most=1)
    sets = [shingles(document) for document in checked_documents(documents)]
    buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    found = []
    for j, mine in enumerate(sets):
        bands = list(enumerate(row.tobytes() for row in minhash(mine).reshape(BANDS, ROWS))) if mine else []
        candidates = {i for band in bands for i in buckets.get(band, ())}
        similarity, i = max(((jaccard(sets[i], mine), -i) for i in candidates), default=(0.0, 0))
        if similarity >= threshold:
            found.append((-i, j, similarity))
            continue
        for band in bands:
            buckets[band].append(j)
    return found


def exact_hash(text: str) -> bytes:
    """Return 16 bytes that are the same for what `deduplicate` takes to be equal."""
    return blake2b(_canonical(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingles(text: str) -> frozenset[int]:
    """Return the hashes of every run of SHINGLE words (of all words, where there are fewer); Chinese: of characters."""
    found = words(_canonical(string("shingles", "text", text)))
    if len(found) <= SHINGLE:
        runs = [found] if found else []
    else:
        runs = [found[start : start + SHINGLE] for start in range(len(found) - SHINGLE + 1)]
    return frozenset(crc32(" ".join(run).encode("utf-8", "surrogatepass")) for run in runs)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Return the share of two sets that is common to both, 0 for two empty ones."""
    for name, shingled in (("a", a), ("b", b)):
        instance("jaccard", name, shingled, Set, A_SET)
    common = len(a & b)
    return common / max(1, len(a) + len(b) - common)


def minhash(shingled: frozenset[int]) -> NDArray[np.uint32]:
    """Return the signature of a set of 32-bit hashes: its least element under each of BANDS * ROWS random orders.

    The share of equal places in two signatures estimates the similarity of the sets.
    """
    if not instance("minhash", "shingled", shingled, Set, A_SET):
        raise ValueError("a signature needs at least one shingle, got an empty set")
    a, b = _orders()
    values = np.fromiter(shingled, dtype=np.uint64, count=len(shingled))
    smallest = [
        np.min(_mixed(part[:, None] * a + b), axis=0) for part in np.array_split(values, 1 + len(values) // 4096)
    ]
    return np.min(smallest, axis=0)


def _mixed(wrapped: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Keep the upper half of a wrapped product: Dietzfelbinger's multiply-shift hash."""
    return (wrapped >> np.uint64(32)).astype(np.uint32)


@lru_cache(maxsize=1)
def _orders() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    random = np.random.RandomState(0)  # its stream is frozen, unlike default_rng's
    a, b = random.randint(0, 2**64, size=(2, BANDS * ROWS), dtype=np.uint64)
    return a | np.uint64(1), b  # odd, so that no two hashes collapse before the shift


def _canonical(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
