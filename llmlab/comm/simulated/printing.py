"""What ranks print: kept per rank, and shown line by line with the rank's number by the calling thread."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llmlab.comm.lines import RankLines
from llmlab.comm.simulated.scheduler import Task

MANY_RANKS, SAY_EVERY_S = 5000, 4.0  # of how many ranks a run says how far it is, and how often


class Printing:
    """Stands in for sys.stdout during a run. The caller shows the lines, so they are in the right cell."""

    def __init__(self, hold: bool = False) -> None:
        self._hold = hold  # until release(): the run may have to begin again
        self.texts: dict[int, list[str]] = {}
        self._open: dict[int, RankLines] = {}
        self._lines: list[str] = []

    def of(self, rank: int) -> str:
        return "".join(self.texts.get(rank, []))

    @contextmanager
    def caught(self, current: Callable[[], int | None]) -> Iterator[None]:
        self._caller, self._out, self._current = threading.get_ident(), sys.stdout, current
        sys.stdout = _Router(self)
        try:
            yield
        finally:
            sys.stdout = self._out
            self._lines += [lines.rest() for _, lines in sorted(self._open.items())]
            self._open.clear()
            self.flush()

    def write(self, text: str) -> None:
        rank = None if threading.get_ident() == self._caller else self._current()
        if rank is None:
            self._out.write(text)
            return
        self.texts.setdefault(rank, []).append(text)
        if rank not in self._open:
            self._open[rank] = RankLines(rank)
        self._lines.append(self._open[rank].add(text))

    def say(self, text: str) -> None:
        """Show a line of nobody's; called by the calling thread, after what has come."""
        self.flush()
        self._out.write(text + "\n")

    def release(self) -> None:
        """Show what was held back."""
        self._hold = False
        self.flush()

    def flush(self) -> None:
        """Show what has come; called by the calling thread."""
        while self._lines and not self._hold:
            self._out.write(self._lines.pop(0))


class _Router(io.TextIOBase):
    def __init__(self, printing: Printing):
        self._printing = printing

    def write(self, text: str) -> int:
        self._printing.write(text)
        return len(text)

    def flush(self) -> None:
        """Lines are shown by the calling thread; there is nothing to push."""


class Progress:
    """A line every few seconds that says how far very many ranks are; fewer are done before anybody asks."""

    def __init__(self, printing: Printing, ranks: int):
        self.printing, self.ranks = printing, ranks
        self.next = time.monotonic() + SAY_EVERY_S

    def show(self, tasks: Sequence[Task]) -> None:
        """Say how many ranks have begun and how many have returned, if it is time."""
        if len(tasks) < MANY_RANKS or time.monotonic() < self.next:
            return
        self.next = time.monotonic() + SAY_EVERY_S
        begun, ended = sum(task.thread is not None for task in tasks), sum(task.status == "done" for task in tasks)
        self.printing.say(f"{begun:,} of {self.ranks:,} simulated ranks have begun, {ended:,} have returned")
