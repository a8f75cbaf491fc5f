"""Who writes which piece, and what the manifest says: made alike on every rank, from what each has told of itself."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.checkpoint.content import Content
from llmlab.checkpoint.exchange import agreed, everyones
from llmlab.checkpoint.held import Part, Run
from llmlab.checkpoint.pieces import as_record
from llmlab.checkpoint.storing import FORMAT, bytes_of
from llmlab.model.safetensors import DTYPES

DTYPE = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


class Plan:
    """Who writes which piece. Made alike on every rank, from what every rank has told of itself."""

    def __init__(self, parts: dict[str, Part], told: Sequence[dict[str, Any]], rank: int):
        self.n_rank = len(told)
        holders: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        self.shapes: dict[str, tuple[list[int], str]] = {}
        for other, found in enumerate(told):
            for key, shape, dtype, record in found["parts"]:
                if self.shapes.setdefault(key, (shape, dtype)) != (shape, dtype):
                    raise ValueError(f"save wants {key} alike on every rank, got {(shape, dtype)} on rank {other}")
                if record[3] < record[4]:
                    holders.setdefault((key, tuple(record)), []).append(other)
        self.shared = {piece: ranks for piece, ranks in holders.items() if len(ranks) > 1}
        self.writer = dealt(holders, {key: DTYPE[dtype].itemsize for key, (_, dtype) in self.shapes.items()})
        self.mine = {key: parts[key].owned for (key, _), other in self.writer.items() if other == rank}

    @classmethod
    def of(cls, run: Run, content: Content) -> Plan:
        parts = content.parts
        told = [
            (p.key, list(p.shape), str(p.owned.dtype).removeprefix("torch."), as_record(p.piece))
            for p in parts.values()
        ]
        rank = 0 if run.world is None else run.world.rank
        plan = cls(parts, everyones(run.world, {"parts": told}), rank)
        plan.check_copies(run, parts, rank)
        return plan

    def check_copies(self, run: Run, parts: Mapping[str, Part], rank: int) -> None:
        """Refuse ranks whose copies of a piece differ: the others' would be lost without a word."""
        mine = {key: zlib.crc32(bytes_of(parts[key].owned)) for (key, _), ranks in self.shared.items() if rank in ranks}
        sums = everyones(run.world, mine)
        for (key, _), ranks in self.shared.items():
            for other in ranks[1:]:
                if sums[other][key] != sums[ranks[0]][key]:
                    raise ValueError(
                        f"save wants ranks that share a parameter to have the same numbers; got others for {key} on "
                        f"rank {other} than on rank {ranks[0]}: average first (local SGD), or look for what let them "
                        "drift apart with lab.disagreement"
                    )

    def manifest(self, run: Run, step: int, content: Content) -> dict[str, Any]:
        """All that is known now; the files' hashes come when they are written."""
        tensors: dict[str, Any] = {
            key: {"shape": shape, "dtype": dtype, "pieces": []} for key, (shape, dtype) in self.shapes.items()
        }
        for (key, record), rank in sorted(self.writer.items()):
            tensors[key]["pieces"].append([rank, *record])
        numbers: dict[str, Any] = {}
        for found in everyones(run.world, content.numbers):
            numbers = found | numbers
        return {
            "format": FORMAT,
            "step": step,
            "ranks": self.n_rank,
            "tensors": tensors,
            "optimizer": agreed(run.world, "save", content.options),
            "numbers": numbers,
            "forwards": max(everyones(run.world, run.forwards)),
            "scaler": None if run.scaler is None else run.scaler.state_dict(),
            "extra": agreed(run.world, "save: extra", content.extra),
        }


def dealt(holders: Mapping[tuple[str, Any], Sequence[int]], itemsize: Mapping[str, int]) -> dict[tuple[str, Any], int]:
    """Deal the pieces out, the largest first, each to that of its holders who has least to write so far."""

    def n_bytes(piece: tuple[str, Any]) -> int:
        key, record = piece
        return int(record[4] - record[3]) * itemsize[key]

    load: dict[int, int] = {}
    writer = {}
    for piece in sorted(holders, key=lambda piece: (-n_bytes(piece), piece)):
        rank = min(holders[piece], key=lambda rank: (load.get(rank, 0), rank))
        load[rank], writer[piece] = load.get(rank, 0) + n_bytes(piece), rank
    return writer


def file_of(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
