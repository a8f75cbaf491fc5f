"""How torch and Python are set while simulated ranks take turns, and as they were afterwards."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from llmlab.comm.cores import on_one_core

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank
    from llmlab.comm.simulated.simulation import Simulation


class Surroundings:
    """What a run has around it besides: nothing for our own workers; `torch_programs` needs a good deal."""

    not_modelled: tuple[str, ...] = ()

    def around(self, simulation: Simulation) -> AbstractContextManager[None]:
        """Enter before the first rank starts, leave after the last one has ended, whatever happened."""
        return nullcontext()

    def prepare(self, rank: Rank) -> None:
        """Change a rank before it starts."""


@contextmanager
def one_thread_at_a_time() -> Iterator[None]:
    """One intra-op thread, one core, long turns; a default dtype that a worker sets ends with the run."""
    with ExitStack() as after:
        after.callback(torch.set_default_dtype, torch.get_default_dtype())
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        after.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(0.1)  # one thread runs at a time: no other is waiting for its turn
        after.enter_context(on_one_core())
        yield


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's collector would go through the millions of objects of a run again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
