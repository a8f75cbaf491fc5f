"""What is asked of arguments throughout this folder: lists where lists are wanted, ids that are in the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any


def checked_list(what: str, value: Iterable[Any], instead: str) -> Sequence[Any]:
    """Return the value as a list, or raise ValueError for one string, which would be taken for a list of characters.

    what: names the argument.  instead: the call that is right, such as "specials=[text]".
    """
    if isinstance(value, (str, bytes)):
        kind = "string" if isinstance(value, str) else "bytes object"
        raise ValueError(f"{what} must be a list, got one {kind}, {value[:20]!r}: pass {instead}")
    if not isinstance(value, Iterable):
        raise ValueError(f"{what} must be a list, got {value!r}")
    return value if isinstance(value, Sequence) else list(value)


def checked_documents(documents: Iterable[str]) -> Sequence[str]:
    """Return the documents, or raise ValueError for one string, and for documents that are no strings."""
    documents = checked_list("documents", documents, "[text]")
    other = next((document for document in documents if not isinstance(document, str)), "")
    if not isinstance(other, str):
        raise ValueError(f"documents must be strings, got one that is of type {type(other).__name__}")
    return documents


def checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Return ids as a list of ints (a tensor or bytes will do), or raise ValueError for one outside the vocabulary."""
    try:
        ids = [index(i) for i in (ids if isinstance(ids, bytes) else checked_list("token ids", ids, "encode(text)"))]
    except TypeError as error:
        raise ValueError(f"token ids must be integers: {error}") from None
    outside = next((i for i in ids if not 0 <= i < vocab_size), None)
    if outside is not None:
        raise ValueError(f"token ids must be in 0..{vocab_size - 1}, got {outside}")
    return ids
