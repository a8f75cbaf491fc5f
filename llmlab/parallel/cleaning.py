"""A corpus cleaned over ranks: the same documents out, in the same order, whatever the number of ranks.

    clean         each document by itself                       tasks of `chunk` documents
    same          equal but for case and blanks: by a hash      tasks, then one look on every rank
    near          MinHash signatures                            tasks: most of the work
                  pairs that share a band (candidates)          tasks of a band each
                  their Jaccard similarity                      tasks of `chunk` pairs
                  who is left out, from the first on            one look on every rank, at pairs alone

The result is `lab.text.deduplicate` of the cleaned documents. Every rank is given all and gets all that is left.
Penedo et al. 2024, "FineWeb" (arXiv 2406.17557), clean and compare so, at a scale of other orders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from llmlab.arguments import flag, real, whole
from llmlab.comm.group import Group
from llmlab.parallel.task import map_tasks
from llmlab.text import clean
from llmlab.text.duplicates import BANDS, ROWS, exact_hash, jaccard, minhash, shingles

Spans = list[tuple[int, int]]
Pair = tuple[int, int]


def clean_documents(
    documents: Sequence[str],
    group: Group,
    near: float | None = None,
    *,
    markup: bool = False,
    schedule: str = "static",
    chunk: int = 64,
) -> list[str]:
    """Clean documents and leave out repeats, the first of each kept; every rank gets the same list.

    near: leave out, too, what has at least this similarity to one kept before (MinHash and Jaccard), such as 0.8.
    markup: see `lab.text.clean`.  schedule: "static" or "first_free", see `map_tasks`.  chunk: documents in a task.
    """
    if near is not None:
        real("clean_documents", "near", near, above=0, most=1)
    flag("clean_documents", "markup", markup)
    whole("clean_documents", "chunk (documents)", chunk, least=1)

    def cleaned(span: Pair) -> list[tuple[str, bytes]]:
        found = (clean(document, markup) for document in documents[slice(*span)])
        return [(text, exact_hash(text)) for text in found if text]

    everything = _joined(map_tasks(cleaned, _spans(len(documents), chunk), group, schedule))
    different = {digest: text for text, digest in reversed(everything)}  # the first of each
    seen: dict[bytes, None] = dict.fromkeys(digest for _, digest in everything)
    kept = [different[digest] for digest in seen]
    if near is None or not kept:
        return kept
    repeats = _near_repeats(kept, near, group, schedule, chunk)
    return [text for i, text in enumerate(kept) if i not in repeats]


def _near_repeats(documents: list[str], near: float, group: Group, schedule: str, chunk: int) -> set[int]:
    """Which documents are as similar as that to an earlier one that is no repeat itself."""

    def signatures(span: Pair) -> list[tuple[frozenset[int], bytes]]:
        sets = [shingles(document) for document in documents[slice(*span)]]
        return [(each, minhash(each).tobytes() if each else b"") for each in sets]

    signed = _joined(map_tasks(signatures, _spans(len(documents), chunk), group, schedule))

    def sharing(band: int) -> list[Pair]:
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        width = ROWS * 4  # bytes of a band's values
        for i, (_, signature) in enumerate(signed):
            if signature:
                buckets[signature[band * width : (band + 1) * width]].append(i)
        return [(i, j) for found in buckets.values() for n, j in enumerate(found) for i in found[:n]]

    pairs = sorted(set(_joined(map_tasks(sharing, range(BANDS), group, schedule))))

    def similar(span: Pair) -> list[Pair]:
        return [(i, j) for i, j in pairs[slice(*span)] if jaccard(signed[i][0], signed[j][0]) >= near]

    candidates: defaultdict[int, list[int]] = defaultdict(list)
    for i, j in _joined(map_tasks(similar, _spans(len(pairs), 16 * chunk), group, schedule)):
        candidates[j].append(i)
    repeats: set[int] = set()
    for j in sorted(candidates):  # from the first on: a repeat leaves nobody else out
        if any(i not in repeats for i in candidates[j]):
            repeats.add(j)
    return repeats


def _spans(n: int, chunk: int) -> Spans:
    return [(start, min(start + chunk, n)) for start in range(0, n, chunk)]


def _joined(parts: list[list]) -> list:
    return [each for part in parts for each in part]
