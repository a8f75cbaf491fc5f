"""Token ids as people have them (lists, tensors, numpy arrays, files mapped into memory), laid end to end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[Any]  # of any integer dtype


def lay_out(documents: Any, end: int | None = None) -> tuple[Ids, NDArray[np.int64]]:
    """Return all tokens in one row, and the place where each document begins; empty documents are left out.

    One array, or a file mapped by `np.memmap`, is returned as it is and not read, unless an `end` has to be put in.
    Raises: ValueError for what is not token ids, and if there are none.
    """
    documents = _listed(documents)
    whole = _array(documents)
    if whole is not None and whole.ndim == 2:  # a document in each row
        lengths, row = np.full(len(whole), whole.shape[1]), whole.reshape(-1)
    else:
        parts = [whole] if whole is not None else [_flat(document) for document in documents]
        lengths, row = np.array([len(part) for part in parts], np.int64), _joined(parts)
    if not len(row):
        raise ValueError("batches need tokens, got an empty corpus")
    lengths = lengths[lengths > 0]
    if end is not None:
        row = np.insert(row.astype(np.int64), np.cumsum(lengths), end)
        lengths = lengths + 1
    return row, np.cumsum(lengths) - lengths


def _array(ids: Any) -> Ids | None:
    """Return numbers as an array without copying them; None for what may be a list of documents."""
    if isinstance(ids, (str, bytes)):
        raise ValueError(f"token ids must be integers, got the text {ids[:20]!r}: pass [tokenizer.encode(text)]")
    if isinstance(ids, Tensor):
        if ids.is_floating_point() or ids.is_complex():  # before numpy, which has no bfloat16
            raise ValueError(f"token ids must be integers, got a tensor of {ids.dtype}")
        ids = ids.detach().cpu().numpy()
    elif not isinstance(ids, np.ndarray):
        if not ids or not _is_number(ids[0]):
            return None
        try:
            ids = np.array(ids)
        except (ValueError, TypeError) as error:  # a list in the list
            raise ValueError(f"token ids must be integers: {error}") from None
    if ids.dtype == object:
        return None
    if ids.dtype.kind not in "iu":
        raise ValueError(f"token ids must be integers, got {ids.dtype}")
    if ids.ndim not in (1, 2):
        raise ValueError(f"token ids must stand in one row, or in one per document; got the shape {ids.shape}")
    return np.asarray(ids)


def _flat(document: Any) -> Ids:
    """Return the ids of one document."""
    document = _listed(document)
    ids = _array(document)
    if ids is None and not len(document):
        return np.array([], np.int64)
    if ids is None or ids.ndim != 1:
        raise ValueError(f"a document must be one row of token ids, got {str(document)[:40]}")
    return ids


def _listed(ids: Any) -> Any:
    """Return what is neither text nor array nor tensor as a list."""
    if isinstance(ids, (str, bytes, Tensor, np.ndarray)):
        return ids
    if not isinstance(ids, Iterable):
        raise ValueError(f"token ids must be a list, an array or a tensor, got {ids!r}")
    return list(ids)


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, float, np.generic)) or (isinstance(item, (Tensor, np.ndarray)) and not item.ndim)


def _joined(parts: list[Ids]) -> Ids:
    if len(parts) == 1:
        return parts[0]
    if len({part.dtype for part in parts}) > 1:  # numpy would make floats of uint64 and int64
        parts = [part.astype(np.int64) for part in parts]
    return np.concatenate(parts) if parts else np.array([], np.int64)
