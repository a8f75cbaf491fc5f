"""Tensors in a file of weights: their shapes are known and checked before any number of theirs is read."""

from __future__ import annotations

import re
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


POINTER = "a pointer to a file that Git LFS keeps elsewhere: fetch the file itself, with `git lfs pull` in its folder"
PICKLE = "a pickle, and loading it could run any code: convert it to safetensors on a machine you would lose"
OLD = "a file of ggml's from before GGUF: convert it with llama.cpp"
FOREIGN = {  # what a file begins with that is taken for weights or settings and is neither
    rb"version https://git-lfs": POINTER,
    rb"\s*<(!doctype|html|head|body|\?xml|error)": "a page of HTML or XML, such as an error: download the file itself",
    rb"PK\x03\x04": f"a zip archive; if torch.save wrote it, it holds {PICKLE}",
    rb"\x80[\x02-\x05]": PICKLE,
    rb"\x1f\x8b": "compressed by gzip: unpack it",
    rb"\x89HDF": "an HDF5 file, as Keras writes: only safetensors and GGUF are read",
    rb"GGUF": "a GGUF file: let its name end in .gguf",
    rb"ggjt|lmgg|tjgg": OLD,
    rb".{6}\0\0{": "a safetensors file: it belongs into a folder, beside its config.json",
}


def refuse_foreign(what: str, head: bytes, wanted: str) -> None:
    """Raise ValueError for what begins like another kind of file, and say which; asked once it makes no sense as ours.

    (A sound file may begin so by chance: safetensors begin with a length, of any bytes.)
    """
    for beginning, kind in FOREIGN.items():
        if not kind.startswith(f"a {wanted}") and re.match(beginning, head, re.IGNORECASE | re.DOTALL):
            raise ValueError(f"{what} must hold {wanted}, but it is {kind}")


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
