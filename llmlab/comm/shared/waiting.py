"""How a rank waits for the others without burning the only core, and without waiting for the dead.

First it looks again at once (a peer that is under way answers within microseconds), then it lets others run, and soon
it sleeps, until the peer that it waits for wakes it. Where ranks share cores it does not look twice in a row: the peer
may want this very core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_SPIN_S = 50e-6
_YIELD_S = 300e-6
_SLEEP_S = 0.01  # at most: what another group of this rank's waits for is seen no earlier
_PULSE_S = 0.25  # between two looks at whether the others live


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def alive(process: int) -> bool:
    """Whether a process still runs; one that has ended and was not yet reaped does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


class Patience:
    """One wait: `pause` is called after every look that found nothing new."""

    def __init__(self, crowded: bool, limit_s: float):
        self._spin = 0.0 if crowded else _SPIN_S
        self._limit = limit_s
        self._began = 0.0
        self._pulse = 0.0

    def progress(self) -> None:
        """Something came: what is next may come as soon."""
        self._began = 0.0

    def pause(self, sleep: Callable[[float], None]) -> bool:
        """Wait a little. True when it is time to look whether the others live. Raises TimeoutError at the limit."""
        now = time.perf_counter()
        if not self._began:
            self._began, self._pulse = now, now + _PULSE_S
        waited = now - self._began
        if waited < self._spin:
            return False
        if waited < _YIELD_S:
            os.sched_yield()
            return False
        sleep(_SLEEP_S)
        if waited > self._limit:
            raise TimeoutError
        if now >= self._pulse:
            self._pulse = now + _PULSE_S
            return True
        return False
