"""A breakpoint on one rank: the run stops there, and the cell has its variables and what it has communicated so far."""

from __future__ import annotations

import sys
from types import FrameType

from llmlab.arguments import flag, whole
from llmlab.comm.errors import Stopped
from llmlab.comm.simulated.rank import Rank
from llmlab.comm.where import describe, worker_line


def break_at(rank: int, when: bool = True) -> None:
    """Stop the run when this rank comes here, in a worker of ours or in a program of torch.distributed.

    `lab.Stopped` reaches the cell, with `locals` and `operations`; its text has every rank's line. Other ranks pass.
    Raises ValueError outside a simulated rank.
    """
    whole("break_at", "rank", rank, least=0)
    here = sys._getframe(1)
    mine = _rank_of(here)
    if not flag("break_at", "when", when) or mine.number != rank:
        return
    simulation = mine.simulation
    under_way = [str(post.side) for post in mine.handles.values()]
    while simulation.timeline.next_event() is not None:  # nobody goes on after this: time may
        simulation.timeline.step()
    done = sorted((e for e in simulation.events if e.rank == rank and e.stream == "comm"), key=lambda e: e.start)
    operations = [f"{e.op} on {e.axis}, {e.nbytes} bytes" for e in done]
    text = f"rank {rank} stopped at {describe(worker_line(here))}\nall ranks:\n{simulation.all_doing()}"
    text += "".join(f"\nunder way: {each}" for each in under_way)
    raise Stopped(text, rank, dict(here.f_locals), operations)


def _rank_of(frame: FrameType | None) -> Rank:
    """The simulated rank whose worker this is: its body is the outermost of ours on the stack."""
    while frame is not None:
        if frame.f_code is Rank.body.__code__:
            return frame.f_locals["self"]
        frame = frame.f_back
    raise ValueError("break_at stops a simulated rank: call it inside a worker that Simulator runs")
