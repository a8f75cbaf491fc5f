"""Tensors in a file of weights: their shapes are known and checked before any number of theirs is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Raw = UInt8[Tensor, " _"]  # bytes, so many as there are


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: its shape, and a function that reads it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def raw_bytes(source: Path | bytes) -> Raw:
    """Give a file's bytes, or those of a member of an archive; those of a file are read from disk when looked at."""
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if not size:
        raise ValueError(f"{label(source)} must hold weights, got an empty file")
    if isinstance(source, Path):
        return torch.from_numpy(np.memmap(source, dtype=np.uint8, mode="c"))  # "c": a write would stay in memory
    return torch.frombuffer(bytearray(source), dtype=torch.uint8)


def label(source: Path | bytes) -> str:
    """Name the source in an error message."""
    return source.name if isinstance(source, Path) else "the file of weights"


def check_extents(what: str, extents: dict[str, tuple[int, int]], size: int, gaps: bool) -> None:
    """Refuse tensors that reach beyond the data, into each other, or (unless `gaps`) leave bytes that no one claims.

    extents: the first byte of each tensor and the one after its last, counted from the start of the data.
    """
    end = 0
    for name, (start, stop) in sorted(extents.items(), key=lambda item: item[1]):
        if start < end or (start > end and not gaps):
            raise ValueError(f"{what}: {name!r} must begin at byte {end} of the data, got {start}")
        end = stop
        if end > size:
            raise ValueError(f"{what} must hold {end} bytes of data for {name!r}, got {size}: it was cut off")
    if end < size and not gaps:
        raise ValueError(f"{what} must end with its last tensor at byte {end} of the data, got {size - end} more")
