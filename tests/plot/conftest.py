"""Small traces made by hand, whose idle times can be counted on the fingers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmlab.comm.trace import Event, Memory, Run, Trace


def _step(rank: int, all_reduce_s: float) -> list[Event]:
    """3 s of computing, an all-reduce that nothing hides, 1 s of computing."""
    end = 3 + all_reduce_s
    return [
        Event(rank, "compute", "matmul", "", 8, 100, 0.0, 3.0),
        Event(rank, "comm", "all_reduce", "world", 4096, 0, 3.0, end),
        Event(rank, "compute", "add", "", 8, 10, end, end + 1),
    ]


@pytest.fixture
def step_trace() -> Callable[..., Trace]:
    """Make the trace of a step on some ranks: 6 s in all, 2 of them idle."""

    def make(ranks: int = 2, all_reduce_s: float = 2.0, clock: str = "virtual") -> Trace:
        events = [event for rank in range(ranks) for event in _step(rank, all_reduce_s)]
        return Trace(tuple(sorted(events, key=lambda e: (e.start, e.rank))), clock, "a test machine")

    return make


@pytest.fixture
def run_of() -> Callable[..., Run]:
    """Make a run of a trace, of memory, or of seconds alone."""

    def make(trace: Trace | None = None, memory: list[Memory] | None = None, ranks: int = 0, **more) -> Run:
        trace = trace or Trace()
        fields = {"seconds": 6.0, "clock": trace.clock, "not_modelled": ("fragmentation", "data loading"), **more}
        count = ranks or len(memory or []) or trace.n_rank
        return Run([None] * count, trace=trace, memory=memory or [], output=[], hardware="a test machine", **fields)

    return make
