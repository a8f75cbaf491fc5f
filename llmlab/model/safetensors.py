"""Read and write safetensors: 8 bytes that say how long the header is, the header in JSON, then nothing but numbers.

https://huggingface.co/docs/safetensors, "Format". Nothing in such a file can be run, unlike in a pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmlab.model.stored import Raw, Stored, check_extents, label, raw_bytes, refuse_foreign

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LONGEST_HEADER = 100_000_000  # bytes; the limit the format sets


def read_safetensors(source: Path | bytes) -> dict[str, Stored]:
    """List the tensors of a file, or of the bytes of one.

    Raises: ValueError for a file that is cut off, or whose header says what cannot be.
    """
    what, raw = label(source), raw_bytes(source)
    header, data = _split(what, raw)
    entries = {name: _entry(what, name, entry) for name, entry in header.items() if name != "__metadata__"}
    check_extents(what, {name: extent for name, (_, _, extent) in entries.items()}, len(data), gaps=False)
    return {
        name: Stored(shape, partial(_read, data[start:stop], dtype, shape))
        for name, (dtype, shape, (start, stop)) in entries.items()
    }


def _split(what: str, raw: Raw) -> tuple[dict[str, Any], Raw]:
    """Take the header from the data."""
    head = bytes(raw[:64].tolist())
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= min(len(raw) - 8, LONGEST_HEADER):
        refuse_foreign(what, head, "safetensors")
        if len(raw) < 8 or len(raw) - 8 < length <= LONGEST_HEADER:
            raise ValueError(f"{what} must hold a header, got {len(raw)} bytes in all: it was cut off")
        raise ValueError(
            f"{what} must begin with the length of its header, at most the {len(raw)} bytes it has, got {length}"
        )
    try:
        header = json.loads(raw[8 : 8 + length].numpy().tobytes(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        refuse_foreign(what, head, "safetensors")
        raise ValueError(f"{what} must have a header in JSON, got {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{what} must have a header that names its tensors, got {type(header).__name__}")
    return header, raw[8 + length :]


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} twice")
        found[name] = value
    return found


def _entry(what: str, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    """Give dtype, shape and extent in bytes of one tensor, of which the last must follow from the others."""
    try:
        kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{what}: {name!r} must come with dtype, shape and two data_offsets, got {entry!r}") from None
    if kind not in list(DTYPES):
        raise ValueError(f"{what}: {name!r} must be of a type among {', '.join(DTYPES)}; got {kind!r}")
    if any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
        raise ValueError(f"{what}: {name!r} must have sizes and offsets that count, got {entry!r}")
    wanted = math.prod(shape) * DTYPES[kind].itemsize
    if stop - start != wanted:
        raise ValueError(f"{what}: {name!r} of shape {shape} in {kind} takes {wanted} bytes, got {stop - start}")
    return DTYPES[kind], shape, (start, stop)


def _read(data: Raw, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return data.clone().view(dtype).view(shape)  # cloned: the header's length need not be a multiple of 8


def header_of(tensors: Mapping[str, Tensor]) -> bytes:
    """What stands before the numbers of these tensors, which follow in this order, row-major and without a gap."""
    names, entries, start = {dtype: name for name, dtype in DTYPES.items()}, {}, 0
    for name, x in tensors.items():
        stop = start + x.numel() * x.element_size()
        entries[name] = {"dtype": names[x.dtype], "shape": list(x.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the format lets spaces follow, so that the numbers lie on words
    return len(text).to_bytes(8, "little") + text
