"""Silent errors between ranks: what should be the same on several is compared by a hash, and named if it is not.

    alike = lab.check_alike(step, every=10)
    for n in range(1000):
        loss = step(*batch(n))
        alike(tokens=batch(n)[0], seed=seed)

Weights and gradients that several ranks hold (copies under data parallelism, norms under tensor parallelism) must be
equal to the bit after each update: ranks whose memory flipped a bit, that missed an update, began from another seed or
read other data are named, with the step and the tensor. (The idea is old in systems of replicas; of training: Narayanan
et al. 2021 compare losses, Meta's report on Llama 3, arXiv 2407.21783, section 3.3.4, counts silent corruption among
the causes of interruptions.) A gradient that is wrong before it is averaged is wrong everywhere alike: no comparison of
copies sees that. A nan or inf is found where it arises by `lab.check_finite`.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llmlab.arguments import whole
from llmlab.checkpoint.exchange import everyones
from llmlab.checkpoint.held import Run
from llmlab.checkpoint.pieces import Piece, all_of, as_record
from llmlab.checkpoint.storing import bytes_of
from llmlab.comm.group import Group
from llmlab.parallel.placement import shard_of

ABSENT, EMPTY = -1, -2  # in the place of a hash: not on this rank; no gradient


class RanksDiffer(RuntimeError):
    """Ranks that should hold the same numbers do not. `step`, `name` and the `ranks` that are not as the most are."""

    def __init__(self, message: str, step: int, name: str, ranks: tuple[int, ...]):
        super().__init__(message)
        self.step, self.name, self.ranks = step, name, ranks

    def __reduce__(self) -> tuple[Any, ...]:
        return RanksDiffer, (str(self), self.step, self.name, self.ranks)


def check_alike(target: Any, *, world: Group | None = None, every: int = 10) -> Alike:
    """Give what compares the ranks' copies: call it after each step, and each `every`-th call compares.

    target: the step that `parallelize` gave; or a model on several ranks by hand, with `world`. Every rank calls it. A
    comparison reads each number once, on the host, and hands over 16 bytes for each tensor that several ranks hold;
    benchmarks/check_alike.py says what that adds to a step.
    """
    whole("check_alike", "every (steps)", every, least=1)
    return Alike(Run.of("check_alike", target, None, world), every)


class Alike:
    """Compares. seconds: the processor's, spent on it so far."""

    def __init__(self, run: Run, every: int):
        if any(p.is_meta for p in run.names.values()):
            raise ValueError("check_alike compares numbers, and numerics=False has none: run with numerics=True")
        self.run, self.every, self.n_step, self.seconds = run, every, 0, 0.0
        told = everyones(run.world, [[name, as_record(piece)] for name, piece in self._pieces().items()])
        holders: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for rank, held in enumerate(told):
            for name, record in held:
                holders.setdefault((name, tuple(record)), []).append(rank)
        self.shared = {piece: ranks for piece, ranks in sorted(holders.items()) if len(ranks) > 1}

    def __call__(self, **same: Any) -> None:
        """Count a step; compare if it is time to. same: what else must be alike by name: tensors, numbers, texts.

        Raises RanksDiffer, on every rank.
        """
        self.n_step += 1
        world = self.run.world
        if self.n_step % self.every or world is None or world.size == 1:
            return
        begin = time.process_time()
        more = {name: _hash_of(value) for name, value in same.items()}
        mine = [zlib.crc32(repr(sorted(more.items())).encode()), *self._hashes()]
        everyone = world.all_gather(torch.tensor([mine], device=world.device)).cpu()  # [ranks, hashes]
        self.seconds += time.process_time() - begin
        self._compare_said(everyone[:, 0].tolist(), more)
        for column, ((name, _), ranks) in enumerate((each for each in self.shared.items() for _ in range(2)), start=1):
            what = f"{name}'s gradient" if column % 2 == 0 else name
            self._compare(what, {rank: int(everyone[rank, column]) for rank in ranks})

    def _hashes(self) -> list[int]:
        """A weight's and its gradient's, for each piece that is shared."""
        pieces, tensors, found = self._pieces(), self._tensors(), list[int]()
        for name, record in self.shared:
            if name not in pieces or tuple(as_record(pieces[name])) != record:
                found += [ABSENT, ABSENT]
                continue
            gradient = tensors[name].grad
            found.append(zlib.crc32(bytes_of(tensors[name])))
            found.append(EMPTY if gradient is None else zlib.crc32(bytes_of(gradient)))
        return found

    def _tensors(self) -> dict[str, Tensor]:
        buffers = {name: getattr(module, word) for name, (module, word) in self.run.buffers.items()}
        return {name: x for name, x in buffers.items() if x is not None} | self.run.names

    def _pieces(self) -> dict[str, Piece]:
        """What this rank has of each tensor; nothing of one that it owns a flat part of only (ZeRO 3)."""
        found = {name: all_of(x.shape) for name, x in self._tensors().items()}
        for name, parameter in self.run.names.items():
            shard = shard_of(parameter)
            if shard is not None:
                found[name] = Piece(shard.dim, shard.group.rank * shard.part, shard.part, 0, parameter.numel())
        if self.run.zero is not None and self.run.zero.stage == 3:
            found = {name: piece for name, piece in found.items() if name not in self.run.names}
        return found

    def _compare_said(self, hashes: list[int], more: Mapping[str, int]) -> None:
        if len(set(hashes)) > 1:
            for said in (everyone := everyones(self.run.world, dict(more))):
                if set(said) != set(more):
                    names = [sorted(each) for each in everyone]
                    raise ValueError(f"check_alike wants the same names on every rank, got {names}")
            for name in more:
                self._compare(name, {rank: said[name] for rank, said in enumerate(everyone)})

    def _compare(self, name: str, hashes: Mapping[int, int]) -> None:
        (usual, count), *others = Counter(hashes.values()).most_common()
        if not others:
            return
        if count == others[0][1]:  # as many say the other: the lowest rank is as good as any
            usual = next(iter(hashes.values()))
        odd = tuple(rank for rank, value in hashes.items() if value != usual)
        as_usual = [rank for rank, value in hashes.items() if value == usual]
        raise RanksDiffer(
            f"after step {self.n_step} {name} is not the same on all ranks: "
            f"{_said(odd)} not as {_said(as_usual)} (compared every {self.every} steps)",
            self.n_step, name, odd,
        )  # fmt: skip


def _hash_of(value: Any) -> int:
    return zlib.crc32(bytes_of(value) if isinstance(value, Tensor) else repr(value).encode())


def _said(ranks: Any) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
