"""Read GGUF: counts, then facts about the model (sizes, tokens, merges), then the list of tensors, then their blocks.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmlab.model.quantised import PACKINGS, UNREAD, Packing
from llmlab.model.stored import Raw, Stored, check_extents, label, raw_bytes, refuse_foreign

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # for `struct`
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class GGUF:
    """What a file says of its model, and its tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Stored]


def read_gguf(source: Path | bytes) -> GGUF:
    """List the facts and tensors of a file, or of the bytes of one.

    Raises: ValueError for a file that is cut off, says what cannot be, or packs numbers in a way not known here.
    """
    what, raw = label(source), raw_bytes(source)
    reader = Reader(what, memoryview(raw.numpy().data))
    if (magic := bytes(reader.take(4))) != b"GGUF":
        refuse_foreign(what, bytes(raw[:64].tolist()), "GGUF")
        raise ValueError(f"{what} must begin with GGUF, got {magic!r}")
    if (version := reader.number("I")) not in (2, 3):
        raise ValueError(f"{what} must be of GGUF version 2 or 3, little-endian; got {version}")
    n_tensor, n_fact = reader.number("Q"), reader.number("Q")
    facts = reader.table(n_fact, reader.fact)
    entries = reader.table(n_tensor, reader.entry)
    alignment = facts.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"{what}: general.alignment must be an integer of at least 1, got {alignment!r}")
    data = raw[-(-reader.at // alignment) * alignment :]
    check_extents(what, {name: extent for name, (*_, extent) in entries.items()}, len(data), gaps=True)
    tensors = {
        name: Stored(shape, partial(_read, data[start:stop], packing, shape))
        for name, (packing, shape, (start, stop)) in entries.items()
    }
    return GGUF(facts, tensors)


def _read(data: Raw, packing: Packing, shape: tuple[int, ...]) -> Tensor:
    raw = data.numpy().reshape(-1, packing.nbytes)
    return torch.from_numpy(packing.unpack(raw).reshape(shape))


class Reader:
    """A place in a file's bytes, that moves on with all that is read and never beyond the end."""

    def __init__(self, what: str, data: memoryview):
        self.what, self.data, self.at = what, data, 0

    def take(self, count: int) -> memoryview:
        """Give the next bytes."""
        if count > len(self.data) - self.at:
            raise ValueError(
                f"{self.what} must have {count} bytes after byte {self.at}, got {len(self.data)} in all: it was cut off"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def string(self) -> str:
        data = bytes(self.take(self.number("Q")))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.what} must spell names in UTF-8, got {data[:20]!r}") from None

    def table(self, count: int, read: Any) -> dict[str, Any]:
        """Read so many pairs of a name and what `read` finds after it."""
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self.string()
            if name in found:
                raise ValueError(f"{self.what} must name a thing once, got {name!r} twice")
            found[name] = read(name)
        return found

    def fact(self, name: str) -> Any:
        kind = self.number("I")
        return self.array(name) if kind == ARRAY else self.value(name, kind)

    def value(self, name: str, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind not in SCALARS:
            raise ValueError(f"{self.what}: {name!r} must be of a type from 0 to 12 (no array in an array), got {kind}")
        return self.number(SCALARS[kind])

    def array(self, name: str) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS:
            size = struct.calcsize("<" + SCALARS[kind])
            return list(struct.unpack(f"<{count}{SCALARS[kind]}", self.take(count * size)))
        return [self.value(name, kind) for _ in range(count)]

    def entry(self, name: str) -> tuple[Packing, tuple[int, ...], tuple[int, int]]:
        """Give packing, shape and extent in bytes of one tensor."""
        n_dim = self.number("I")
        if n_dim > 4:
            raise ValueError(f"{self.what}: {name!r} must have at most 4 dimensions, got {n_dim}")
        shape = tuple(self.number("Q") for _ in range(n_dim))[::-1]  # the file names the innermost first
        kind, start = self.number("I"), self.number("Q")
        if kind not in PACKINGS:
            known, got = ", ".join(packing.name for packing in PACKINGS.values()), UNREAD.get(kind, f"type {kind}")
            raise ValueError(f"{self.what}: {name!r} must be packed as one of {known}; got {got}")
        packing = PACKINGS[kind]
        if shape and shape[-1] % packing.numbers:
            raise ValueError(
                f"{self.what}: rows of {name!r} must be whole blocks of {packing.numbers}, got {shape[-1]} numbers"
            )
        return packing, shape, (start, start + math.prod(shape) // packing.numbers * packing.nbytes)
