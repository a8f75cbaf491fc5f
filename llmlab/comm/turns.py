"""One run at a time in a process: a widget's callback beside a cell that runs waits for its turn.

A run swaps what a process has once: its random generators, its standard output, its line to the process that forks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.Lock()
_here = threading.local()


@contextmanager
def turn() -> Iterator[None]:
    """Wait until no other thread has a run under way. Raises ValueError in a simulated rank: that would never end."""
    if getattr(_here, "is_rank", False):
        raise ValueError("a simulated rank cannot start a run of its own: return from the worker first, then run again")
    with _turn:
        yield


@contextmanager
def as_rank() -> Iterator[None]:
    """Mark this thread as a simulated rank's."""
    _here.is_rank = True
    try:
        yield
    finally:
        _here.is_rank = False
