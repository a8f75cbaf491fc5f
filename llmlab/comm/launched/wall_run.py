"""A Run with wall-clock times, made of what real ranks reported."""

from __future__ import annotations

import functools
import os
import pickle
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.comm import shared
from llmlab.comm.errors import rank_error
from llmlab.comm.launched.rank_process import Outcome
from llmlab.comm.launched.shipping import Failure
from llmlab.comm.trace import Event, Memory, Run, Trace


def to_run(outcomes: Mapping[int, Outcome], output: Sequence[str], hardware: str) -> Run:
    """Put the ranks' parts together. Raises RankError when a result cannot be read here."""
    ranks = range(len(outcomes))
    events = sorted((e for r in ranks for e in _events(r, outcomes[r])), key=lambda e: (e.start, e.rank))
    return Run(
        results=[_result(rank, outcomes[rank]) for rank in ranks],
        seconds=max(o.stop - o.start for o in outcomes.values()),
        clock="wall",
        trace=Trace(tuple(events), "wall", hardware),
        memory=[_memory(outcomes[rank].grown) for rank in ranks],
        output=list(output),
        hardware=hardware,
    )


def this_hardware(ranks: int, backend: str, threads: int) -> str:
    """`2 processes over shared memory, 1 thread each, 2 cores, ...`."""
    kind = "a GPU each" if backend == "nccl" else _processor()
    over = "shared memory" if backend == shared.NAME else backend
    threads_each = f"{threads} thread{'s' if threads > 1 else ''} each"
    return f"{ranks} processes over {over}, {threads_each}, {os.cpu_count()} cores, {kind}"


@functools.cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _events(rank: int, outcome: Outcome) -> Iterator[Event]:
    zero = outcome.start
    for e in outcome.state.recent:
        stop = outcome.stop if e.stop is None else e.stop
        yield Event(rank, "comm", e.op, e.key[0], e.nbytes, 0, e.start - zero, stop - zero, e.peer)
    for name, start, stop in outcome.spans:
        yield Event(rank, "host", name, "", 0, 0, start - zero, stop - zero)


def _memory(grown: int | None) -> Memory:
    """What the process's resident memory rose by, at its peak; empty where the system does not tell."""
    held = {} if grown is None else {"process": grown}
    return Memory(held, dict(held))


def _result(rank: int, outcome: Outcome) -> Any:
    assert not isinstance(outcome.result, Failure)
    try:
        return pickle.loads(outcome.result)
    except Exception as error:
        raise rank_error(rank, error, "its result came back, but cannot be read here") from error
