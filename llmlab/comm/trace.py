"""What each rank did, when, and how many bytes and FLOPs: the record every engine keeps and every plot reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llmlab.arguments import choice, instance, whole

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce", "gather", "scatter")
COMM_OPS = frozenset((*COLLECTIVES, "barrier", "send", "recv"))
PRODUCT = "product"  # the op of a kernel that is known to be a matrix product by its name only
STREAMS = ("compute", "comm", "host")


@dataclass(frozen=True)
class Event:
    """One operation of one rank. Times are seconds since the run began, on the run's clock.

    `nbytes`: the payload this rank hands over (a receive hands over 0), or, for a kernel, the bytes it moves.
    `stream`: "compute", "comm" or "host". `axis`: the mesh axis of the group, "" for a kernel.
    """

    rank: int
    stream: str
    op: str
    axis: str
    nbytes: int
    flops: int
    start: float
    stop: float
    peer: int | None = None  # the other rank of a send or recv, in the world

    @property
    def seconds(self) -> float:
        return self.stop - self.start


@dataclass(frozen=True)
class Trace:
    """The events of a run, ordered by start, then rank."""

    events: tuple[Event, ...] = ()
    clock: Literal["virtual", "wall"] = "virtual"
    hardware: str = ""

    def __repr__(self) -> str:
        return (
            f"Trace({len(self):,} events of {self.n_rank:,} ranks on {self.hardware or 'nothing named'}, {self.clock})"
        )

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    @property
    def n_rank(self) -> int:
        return 1 + max((e.rank for e in self.events), default=-1)

    def select(self, **wanted: Any) -> Trace:
        """Keep the events whose fields equal the ones given: `trace.select(rank=0, stream="comm")`."""
        for name in wanted:
            choice("select", "a field of an event", name, [each.name for each in fields(Event)])
        kept = (e for e in self.events if all(getattr(e, k) == v for k, v in wanted.items()))
        return Trace(tuple(kept), self.clock, self.hardware)

    def comm_bytes(self, rank: int | None = None, op: str | None = None, axis: str | None = None) -> int:
        """Add the bytes handed over in communication (by one rank, in one operation, along one axis if given)."""
        if rank is not None:
            whole("comm_bytes", "rank", rank, least=0)
        if op is not None:
            choice("comm_bytes", "op", op, sorted(COMM_OPS))
        return sum(
            e.nbytes
            for e in self.events
            if e.stream == "comm"  # torch has kernels of the same names: gather, scatter
            and rank in (None, e.rank)
            and op in (None, e.op)
            and axis in (None, e.axis)
        )

    def flops(self, rank: int | None = None) -> int:
        if rank is not None:
            whole("flops", "rank", rank, least=0)
        return sum(e.flops for e in self.events if rank in (None, e.rank))

    def busy(self, rank: int, stream: str = "compute") -> float:
        """Seconds in which this rank's stream was doing something (overlaps counted once)."""
        whole("busy", "rank", rank, least=0)
        choice("busy", "stream", stream, STREAMS)
        return union_seconds((e.start, e.stop) for e in self.events if e.rank == rank and e.stream == stream)

    def exposed(self, rank: int) -> float:
        """Seconds of this rank's communication during which it computed nothing."""
        whole("exposed", "rank", rank, least=0)
        compute = [(e.start, e.stop) for e in self.events if e.rank == rank and e.stream == "compute"]
        comm = [(e.start, e.stop) for e in self.events if e.rank == rank and e.stream == "comm"]
        return union_seconds(compute + comm) - union_seconds(compute)

    def to_chrome(self, path: str | Path) -> Path:
        """Write the trace as Chrome's JSON, which ui.perfetto.dev opens: a process per rank, a thread per stream."""
        instance("to_chrome", "path", path, (str, Path))
        rows: list[dict[str, Any]] = []
        for rank in sorted({e.rank for e in self.events}):
            rows.append(
                {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank} ({self.clock})"}}
            )
        for e in self.events:
            args = {"nbytes": e.nbytes, "flops": e.flops, "axis": e.axis}
            rows.append(
                {"ph": "X", "name": e.op, "cat": e.stream, "pid": e.rank, "tid": e.stream,
                 "ts": e.start * 1e6, "dur": e.seconds * 1e6, "args": args}
            )  # fmt: skip
        path = Path(path)
        path.write_text(json.dumps({"traceEvents": rows, "displayTimeUnit": "ms"}))
        return path


def union_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total


@dataclass(frozen=True)
class Held:
    """Tensors of one name on a rank's device: a parameter's, or all that an operation of a module made."""

    name: str
    category: str
    nbytes: int  # of all of them
    count: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes one rank's live tensors held: `peaks` by category at its own peak, `at_peak` when the total peaked.

    tensors: what was held when the total peaked, by name, the largest first.
    """

    peaks: dict[str, int] = field(default_factory=dict)
    at_peak: dict[str, int] = field(default_factory=dict)
    tensors: tuple[Held, ...] = field(default=(), compare=False, repr=False)

    def __getitem__(self, category: str) -> int:
        return self.peaks.get(category, 0)

    @property
    def total(self) -> int:
        """Peak bytes over all categories at one moment."""
        return sum(self.at_peak.values())


@dataclass(frozen=True)
class Run:
    """What an engine's `run` gives back. `seconds` is virtual (modelled) or wall (measured), as `clock` says."""

    results: list[Any]
    seconds: float
    clock: Literal["virtual", "wall"]
    trace: Trace
    memory: list[Memory]
    output: list[str]
    hardware: str = ""
    not_modelled: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()  # with fold="auto": along what one rank stood for others, and why not along the rest
    restarts: tuple[str, ...] = ()  # what ended each attempt before this one

    @property
    def ranks(self) -> int:
        return len(self.results)

    @property
    def fullest(self) -> int:
        """The rank whose device holds the most at its peak."""
        return max(range(len(self.memory)), key=lambda rank: self.memory[rank].total, default=0)

    def held(self, rank: int | None = None) -> tuple[Held, ...]:
        """What a rank's device (the fullest's, if none is given) holds at its peak, by name, the largest first.

        Raises ValueError where no tensor was recorded: on processes, without kernels, and of a rank that is not there.
        """
        number = self.fullest if rank is None else whole("held", "rank", rank, least=0, most=max(self.ranks - 1, 0))
        tensors = self.memory[number].tensors if self.memory else ()
        if not tensors:
            raise ValueError("held wants a run of the Simulator, with its kernels: no tensor of this one was recorded")
        return tensors

    def __repr__(self) -> str:
        kind = "modelled" if self.clock == "virtual" else "measured"
        return f"Run({self.ranks} ranks, {self.seconds:.6g} s {kind} on {self.hardware}, {len(self.trace)} events)"
