"""Layout: how one training step is laid out over ranks, and which layouts are legal for a model and a batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm, prod
from typing import Any

from llmlab.arguments import choice, flag, string, whole
from llmlab.parallel.schedules import schedule_name

CONTEXTS = ("ring", "ulysses")
READ = ("n_layer", "n_head", "n_kv_head", "d_ff")  # of a model's sizes
DEGREES = ("dp", "tp", "pp", "cp", "ep", "microbatches", "virtual_stages")


@dataclass(frozen=True)
class Layout:
    """The degree of each way to split a step. `Layout()` is one process.

    The world is dp x tp x pp x cp ranks; `ep` folds inside dp x cp. `microbatches` counts per data-parallel replica
    (with pp=1 it is gradient accumulation). `zero`: 0 shards nothing, 1 optimizer state, 2 also gradients, 3 also
    parameters. `context`: how attention crosses the slices of cp, "ring" or "ulysses".
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    zero: int = 0
    sequence_parallel: bool = False
    schedule: str = "1f1b"
    microbatches: int = 1
    virtual_stages: int = 1
    context: str = "ring"

    def __post_init__(self) -> None:
        for name in DEGREES:  # kept as Python's ints, whoever's they were
            object.__setattr__(self, name, whole("Layout", name, getattr(self, name), least=1))
        object.__setattr__(self, "zero", whole("Layout", "zero", self.zero, least=0, most=3))
        flag("Layout", "sequence_parallel", self.sequence_parallel)
        object.__setattr__(self, "schedule", schedule_name("Layout", "schedule", self.schedule, priced=True))
        choice("Layout", "context", string("Layout", "context", self.context), CONTEXTS)
        if self.virtual_stages > 1 and self.schedule != "interleaved":
            raise ValueError(
                f"virtual_stages={self.virtual_stages} wants schedule='interleaved', got {self.schedule!r}: "
                "the other schedules give each rank one stage"
            )

    @property
    def ranks(self) -> int:
        """The size of the world: dp x tp x pp x cp."""
        return prod((self.dp, self.tp, self.pp, self.cp))

    def check(self, config: Any, batch: int, seq: int, world_size: int | None = None) -> None:
        """Raise ValueError, saying why and what would be legal, unless this step can be laid out so.

        `batch`: sequences in the global batch. `config`: needs n_layer, n_head, n_kv_head, d_ff (and n_expert).
        """
        self.check_model(config, world_size)
        self.check_batch(batch, seq)

    def check_model(self, config: Any, world_size: int | None = None) -> None:
        """Raise ValueError, saying why and what would be legal, unless the model splits so over the world."""
        if not all(hasattr(config, size) for size in READ):
            hint = f"lab.find_config({config!r})" if isinstance(config, str) else "model.config"
            raise ValueError(f"Layout.check wants config as a Config; got {type(config).__name__}; try {hint}")
        self._check_world(None if world_size is None else whole("Layout.check", "world_size", world_size, least=1))
        self._check_sizes(config)

    def check_batch(self, batch: int, seq: int) -> None:
        """Raise ValueError, saying why and what would be legal, unless `batch` sequences of `seq` tokens split so."""
        whole("a layout", "seq", seq, least=1)
        if whole("a layout", "batch", batch, least=1) % (self.dp * self.microbatches):
            raise ValueError(
                f"a batch of {batch} does not split over dp={self.dp} x microbatches={self.microbatches}"
                f"{_nearest('batch', batch, self.dp * self.microbatches)}"
            )
        if self.cp > 1 and seq % (2 * self.cp):  # two slices a rank, so that causal work is even
            raise ValueError(
                f"seq={seq} does not split into 2 x cp={self.cp} slices{_nearest('seq', seq, 2 * self.cp)}"
            )
        if self.sequence_parallel and (seq // self.cp) % self.tp:
            raise ValueError(
                f"sequence parallelism splits seq / cp = {seq // self.cp} over tp={self.tp}: it must divide"
                f"{_nearest('seq', seq, lcm(2 * self.cp, self.cp * self.tp) if self.cp > 1 else self.tp)}"
            )

    def _check_world(self, world_size: int | None) -> None:
        if world_size is not None and self.ranks != world_size:
            raise ValueError(
                f"dp={self.dp} x tp={self.tp} x pp={self.pp} x cp={self.cp} is {self.ranks} ranks, got a world of "
                f"{world_size}{_dp_that_fills(self, world_size)}"
            )
        if (self.dp * self.cp) % self.ep:
            raise ValueError(
                f"ep folds inside dp x cp = {self.dp * self.cp} and must divide it, got ep={self.ep}"
                f"{_legal('ep', _divisors(self.dp * self.cp))}"
            )

    def _check_sizes(self, config: Any) -> None:
        stages = self.pp * self.virtual_stages
        if stages > config.n_layer:
            raise ValueError(
                f"pp={self.pp} x virtual_stages={self.virtual_stages} = {stages} stages want a layer each, "
                f"got n_layer={config.n_layer}"
            )
        if self.schedule == "interleaved" and self.microbatches % self.pp:
            raise ValueError(
                f"the interleaved schedule wants microbatches that pp={self.pp} divides, got {self.microbatches}"
                f"{_nearest('microbatches', self.microbatches, self.pp)}"
            )
        if self.schedule == "dualpipe" and self.pp > 1 and (self.pp % 2 or self.microbatches % 2):
            raise ValueError(
                f"dualpipe feeds a pipeline from both ends: it wants pp and microbatches even, got pp={self.pp} and "
                f"{self.microbatches}"
            )
        for name in ("n_head", "d_ff"):
            size = getattr(config, name)
            if size % self.tp:
                raise ValueError(f"{name}={size} does not split over tp={self.tp}{_legal('tp', _divisors(size))}")
        self._check_heads(config.n_head, config.n_kv_head)
        n_expert = getattr(config, "n_expert", 0)
        if self.ep > 1 and (not n_expert or n_expert % self.ep):
            raise ValueError(
                f"ep={self.ep} splits the experts, got n_expert={n_expert}{_legal('ep', _divisors(n_expert or 1))}"
            )

    def _check_heads(self, n_head: int, n_kv_head: int) -> None:
        if n_kv_head % self.tp and self.tp % n_kv_head:  # fewer key heads than ranks: each is held by several
            fit = [t for t in _divisors(n_head) if n_kv_head % t == 0 or t % n_kv_head == 0]
            raise ValueError(f"n_kv_head={n_kv_head} and tp={self.tp}: one must divide the other{_legal('tp', fit)}")
        heads = n_head // self.tp
        if self.context == "ulysses" and heads % self.cp:
            raise ValueError(
                f"context='ulysses' splits n_head / tp = {heads} heads over cp={self.cp}: it must divide"
                f"{_legal('cp', _divisors(heads))}"
            )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _legal(name: str, values: list[int]) -> str:
    shown = ", ".join(map(str, values[:12])) + (" ..." if len(values) > 12 else "")
    return f"; legal: {name} = {shown}"


def _nearest(name: str, got: int, step: int) -> str:
    below = got // step * step
    return f"; legal: {name} = {below} or {below + step}" if below > 0 else f"; legal: {name} = {step}"


def _dp_that_fills(layout: Layout, world_size: int) -> str:
    rest = layout.ranks // layout.dp
    return f"; legal: dp = {world_size // rest}" if world_size % rest == 0 else ""
