"""A corpus of tokens in many files: each rank reads its own rows, in an order that no number of ranks changes.

    tokens/
      index.json            how many tokens and documents each file has, and what it hashes to
      00000.tokens.npy      token ids, end to end, in the smallest integer that holds them
      00000.starts.npy      where each document begins

    global batch n = rows order[n B : (n + 1) B] of all files        order: drawn from the seed and the epoch alone
      rank r of R    = rows r B / R to (r + 1) B / R of it

Files are mapped into memory: no more is read than a rank's own rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmlab.arguments import instance, whole
from llmlab.text.packing import Batch, Rows, asking_rows

INDEX = "index.json"


def write_shards(folder: str | Path, documents: Iterable[Sequence[int]], tokens_per_file: int = 2**24) -> Path:
    """Write documents of token ids into files of about so many tokens, whole documents each; give the folder.

    Documents may come one by one from a generator: one file's are in memory. Raises ValueError for a folder that holds
    anything already.
    """
    instance("write_shards", "folder", folder, (str, Path))
    whole("write_shards", "tokens_per_file", tokens_per_file, least=2)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"write_shards wants an empty folder, got {folder.name}, which holds files")
    files, held, n_held = list[dict[str, Any]](), list[NDArray[Any]](), 0
    for document in documents:
        ids = np.asarray(document)
        if ids.ndim != 1 or (len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0)):
            raise ValueError(f"write_shards wants documents of token ids, each from 0 on; got {str(document)[:40]}")
        if len(ids):
            held, n_held = [*held, ids], n_held + len(ids)
        if n_held >= tokens_per_file:
            files.append(_write(folder, len(files), held))
            held, n_held = [], 0
    if held:
        files.append(_write(folder, len(files), held))
    if not files:
        raise ValueError("write_shards wants at least one document with tokens, got none")
    (folder / INDEX).write_text(json.dumps({"format": "llmlab tokens 1", "files": files}, indent=1))
    return folder


def _write(folder: Path, number: int, documents: list[NDArray[Any]]) -> dict[str, Any]:
    lengths = np.array([len(document) for document in documents], np.int64)
    row = np.concatenate([document.astype(np.int64) for document in documents])
    row = row.astype(np.min_scalar_type(int(row.max())))
    record: dict[str, Any] = {"tokens": len(row), "documents": len(documents)}
    for kind, array in (("tokens", row), ("starts", np.cumsum(lengths) - lengths)):
        path = folder / f"{number:05d}.{kind}.npy"
        np.save(path, array, allow_pickle=False)
        record[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return record


class Shards:
    """The files of a folder that `write_shards` has written.

    n_token, n_document: of all of them.  verify: read all files once, and compare each with its hash.
    """

    def __init__(self, folder: str | Path, verify: bool = False):
        instance("Shards", "folder", folder, (str, Path))
        self.folder = Path(folder)
        try:
            self.files: list[dict[str, Any]] = json.loads((self.folder / INDEX).read_text())["files"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"Shards wants a folder that write_shards has written, got {folder}: {error}") from None
        self.n_token = sum(record["tokens"] for record in self.files)
        self.n_document = sum(record["documents"] for record in self.files)
        if verify:
            for record in self.files:
                for name in (name for name in record if name.endswith(".npy")):
                    if hashlib.sha256((self.folder / name).read_bytes()).hexdigest() != record[name]:
                        raise ValueError(f"{name} is not as it was written: its sha256 differs")

    def __repr__(self) -> str:
        return f"Shards({self.n_token:,} tokens of {self.n_document:,} documents in {len(self.files)} files)"

    def batches(self, batch: int, seq: int, *, rank: int = 0, ranks: int = 1, seed: int = 0) -> ShardedBatches:
        """Go through all rows of `seq` tokens for ever, `batch` of them at a time on all ranks together.

        This rank's are the rank-th of `ranks` equal parts of each global batch. Rows do not cross from file to file.
        """
        whole("batches", "batch (rows, of all ranks together)", batch, least=1)
        whole("batches", "ranks", ranks, least=1)
        whole("batches", "rank", rank, least=0, most=ranks - 1)
        whole("batches", "seed", seed)
        if batch % ranks:
            raise ValueError(f"a batch of {batch} rows does not split over {ranks} ranks")
        rows = [self._rows(number, seq) for number in range(len(self.files))]
        if batch > (n_row := sum(map(len, rows))):
            raise ValueError(f"the files must fill a batch of {batch} rows of {seq} tokens, got {n_row} rows")
        return ShardedBatches(rows, batch, rank, ranks, seed)

    def _rows(self, number: int, seq: int) -> Rows:
        stream, starts = (self._mapped(f"{number:05d}.{kind}.npy") for kind in ("tokens", "starts"))
        record = self.files[number]
        if (len(stream), len(starts)) != (record["tokens"], record["documents"]):
            raise ValueError(f"file {number:05d} wants {record['tokens']} tokens, got {len(stream)}: it was exchanged")
        whole("batches", "seq (below the number of a file's tokens)", seq, least=1)
        return Rows(stream, starts, seq, asking_rows(len(stream), starts, seq))

    def _mapped(self, name: str) -> NDArray[Any]:
        try:
            return np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from None


@dataclass(eq=False)
class ShardedBatches:
    """An endless iterable of batches, from `n_batch` on; `state_dict` says where it is, for any number of ranks."""

    rows: list[Rows]
    batch: int
    rank: int
    ranks: int
    seed: int
    n_batch: int = 0
    _order: tuple[int, NDArray[np.int64]] = field(default=(-1, np.empty(0, np.int64)), repr=False)

    def __len__(self) -> int:
        """Global batches in one epoch; what does not fill one is left for another epoch's order."""
        return sum(map(len, self.rows)) // self.batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.n_batch += 1
            yield self[self.n_batch - 1]

    def __getitem__(self, n: int) -> Batch:
        """This rank's part of global batch n, counted over epochs."""
        epoch, place = divmod(whole("batches", "n", n, least=0), len(self))
        share = self.batch // self.ranks
        first = place * self.batch + self.rank * share
        numbers = self._shuffled(epoch)[first : first + share]
        ends = np.cumsum([len(rows) for rows in self.rows])
        files = np.searchsorted(ends, numbers, side="right")
        inside = numbers - (ends - [len(rows) for rows in self.rows])[files]
        parts = [self.rows[file][torch.tensor([row])] for file, row in zip(files, inside, strict=True)]
        return Batch(*(torch.cat(each) for each in zip(*map(_fields, parts), strict=True)))

    def state_dict(self) -> dict[str, int]:
        return {"n_batch": self.n_batch, "batch": self.batch, "seed": self.seed, "rows": sum(map(len, self.rows))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there. Raises ValueError for the place in another order: another batch, seed or corpus."""
        here = self.state_dict()
        for name in ("batch", "seed", "rows"):
            if state[name] != here[name]:
                raise ValueError(f"batches want the {name} they were saved with, {state[name]}, got {here[name]}")
        self.n_batch = state["n_batch"]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            words = hashlib.blake2b(f"{self.seed}/{epoch}".encode(), digest_size=16).digest()
            random = np.random.RandomState(np.frombuffer(words, np.uint32))  # its stream is frozen
            self._order = epoch, random.permutation(sum(map(len, self.rows)))
        return self._order[1]


def _fields(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch.tokens, batch.targets, batch.documents, batch.positions
