"""What makes operations go on: whoever waits, whoever begins the next one, and a thread that looks after the rest.

All of a process's operations, of every group, are moved by one function under one lock: a rank that waits in one group
still does its part in another, so two groups used in another order on another rank do not stop each other.

There is no thread that copies in parallel: on as many ranks as cores it would take the core from the computation. A
rank writes its part when it begins an operation, and looks for the others' when it next calls, or waits. The helper
thread starts with the first operation that nobody waits for at once. It looks every fraction of a millisecond, as long
as something is under way and nobody is waiting, so that an operation ends although its caller computes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from llmlab.comm.shared.memory import Memory
from llmlab.comm.shared.waiting import Patience, alive, cores

_LOOKS = 500  # at others' counters, some tens of nanoseconds each, before an operation is made to wait for them
_YIELDS = 20  # of the core to other ranks, likewise
_LOOK_S = 0.0002  # the helper's, while something moves
_LONGEST_LOOK_S = 0.002
_PARKS_S = 0.05  # without work, until it sleeps for good: waking it costs the caller more than a look


class Lane(Protocol):
    """Operations that are moved together, in their order: a group's collectives, or its messages."""

    processes: Sequence[int]  # of all the group's ranks

    def add(self, operation: Any) -> None:
        """Queue an operation; it begins when those before it leave room."""

    def advance(self) -> bool:
        """Do what can be done without waiting; say whether anything was."""

    @property
    def busy(self) -> bool: ...

    def missing(self) -> tuple[Memory, int, int] | None:
        """A counter of another rank's that holds this lane up, and its value; None where no single one does."""

    def fail(self, error: Exception) -> None:
        """End all that is under way, and all that is begun later, with this error."""


class Operation(dist.Work):
    """One rank's part in an operation, under way or done: the Work that torch.distributed hands to its caller."""

    def __init__(self, progress: Progress, lane: Lane, words: str, results: list[Tensor], limit_s: float):
        super().__init__()
        self._progress, self._limit_s = progress, limit_s
        self.lane, self.words, self.results = lane, words, results
        self.done = False
        self.error: Exception | None = None
        self._future: torch.futures.Future[Any] | None = None

    def finish(self, error: Exception | None = None) -> None:
        """Called once, under the lock."""
        self.error, self.done = error, True
        if self._future is not None:
            self._progress.finished.append(self)

    def wait(self, timeout: timedelta | None = None) -> bool:
        if not self.done:
            limit = timeout.total_seconds() if isinstance(timeout, timedelta) else 0.0
            self._progress.until(self, limit or self._limit_s)
        if self.error is not None:
            raise self.error
        return True

    def is_completed(self) -> bool:
        if not self.done:
            self._progress.look()
        return self.done

    def get_future(self) -> torch.futures.Future[Any]:
        """A future of the results. DDP waits for it in C++, where nobody would look for the others' parts."""
        if self._future is None:
            with self._progress.lock:
                self._future = torch.futures.Future()
                if self.done:
                    self._progress.finished.append(self)
            self._progress.tell()
            if not self.done:
                self._wait_at_the_end_of_backward()
        return self._future

    def _wait_at_the_end_of_backward(self) -> None:
        """Within backward: do so before the callback in which DDP waits. Elsewhere the helper thread is enough."""
        try:
            torch.autograd.Variable._execution_engine.queue_callback(self._wait_quietly)
        except RuntimeError:
            self._progress.attend()

    def _wait_quietly(self) -> None:
        with contextlib.suppress(Exception):  # the future has it
            self.wait()

    def tell(self) -> None:
        """Hand the results to whoever asked for a future. Never under the lock: what follows may begin the next one."""
        assert self._future is not None
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(self.results)

    def is_success(self) -> bool:
        return self.done and self.error is None

    def exception(self) -> Any:
        return self.error

    def result(self) -> list[Tensor]:
        return self.results

    def synchronize(self) -> None:
        self.wait()

    def _source_rank(self) -> int:
        return -1


class Finished(dist.Work):
    """The Work of what was done before its caller came to wait."""

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


FINISHED = Finished()
Op = TypeVar("Op", bound=Operation)


class Progress:
    """All operations of this process that are under way."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.active: list[Lane] = []
        self.finished: list[Operation] = []  # whose futures are to be told
        self.crowded = False
        self._waiting = 0  # threads in `until`
        self._helper: threading.Thread | None = None
        self._bell = threading.Event()
        self._parked = True

    def welcome(self, ranks: int) -> None:
        """A group of so many ranks was made: where they share cores, waiting must not spin."""
        self.crowded = self.crowded or ranks > cores()

    def begin(self, operation: Op, attended: bool) -> Op:
        """Queue it, and do at once what can be done. attended: its caller is about to wait for it."""
        lane = operation.lane
        with self.lock:
            lane.add(operation)
            if lane not in self.active:
                self.active.append(lane)
            self._advance()
        if self.finished:
            self.tell()
        if not attended and self.active:
            self.attend()
        return operation

    def at_once(self, board: Any, plan: Any, tensors: Any) -> bool | None:
        """Try to do a collective without making an operation of it; see `Board.at_once`."""
        with self.lock:
            try:
                # where ranks share cores, the one that is waited for may want this very core
                how = (_YIELDS, os.sched_yield) if self.crowded else (_LOOKS, None)
                came: bool | None = board.at_once(plan, tensors, *how)
            except Exception as error:
                board.fail(error)
                raise
        return came

    def look(self) -> None:
        """Do what can be done without waiting."""
        with self.lock:
            self._advance()
        if self.finished:
            self.tell()

    def until(self, operation: Operation, limit_s: float) -> None:
        """Move everything until this operation is done."""
        patience = Patience(self.crowded, limit_s)
        self._waiting += 1
        try:
            while True:
                with self.lock:
                    moved = self._advance()
                if self.finished:
                    self.tell()
                if operation.done:
                    return
                if moved:
                    patience.progress()
                elif patience.pause(partial(self._sleep, operation.lane)):
                    self._check_lives(operation)
        except TimeoutError:
            raise RuntimeError(f"{operation.words} waited {limit_s:g} s for other ranks in vain") from None
        finally:
            self._waiting -= 1

    def attend(self) -> None:
        """Let the helper thread look after what is under way."""
        if self._helper is None or not self._helper.is_alive():  # a forked child has none of its parent's threads
            self._helper = threading.Thread(target=self._help, name="llmlab-shared", daemon=True)
            self._helper.start()
        if self._parked:
            self._bell.set()

    def tell(self) -> None:
        while self.finished:
            with self.lock:
                told = self.finished.pop() if self.finished else None
            if told is not None:
                told.tell()

    def forget(self, lanes: Sequence[Lane]) -> None:
        with self.lock:
            self.active = [lane for lane in self.active if lane not in lanes]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        moved = False
        for lane in tuple(self.active):
            try:
                moved = lane.advance() or moved
            except Exception as error:
                lane.fail(error)
                moved = True
            if not lane.busy:
                self.active.remove(lane)
        return moved

    def _sleep(self, lane: Lane, limit_s: float) -> None:
        """Sleep until another rank counts up what holds this lane up; what holds up others is seen a little later."""
        with self.lock:
            missing = lane.missing()
            alone = len(self.active) < 2
        if missing is None:
            time.sleep(min(limit_s, _LOOK_S))
        else:
            memory, at, value = missing
            memory.sleep(at, value, limit_s if alone else min(limit_s, 1e-3))

    def _check_lives(self, operation: Operation) -> None:
        """A rank that has ended will never answer: end what waits for it."""
        with self.lock:
            for rank, process in enumerate(operation.lane.processes):
                if not alive(process):
                    gone = f"rank {rank} of the group (process {process}) has ended"
                    operation.lane.fail(RuntimeError(f"{operation.words} waits in vain: {gone}"))
                    return

    def _help(self) -> None:
        while True:
            self._bell.wait()
            self._bell.clear()
            self._parked = False
            pause, idle_since = _LOOK_S, time.monotonic()
            while time.monotonic() - idle_since < _PARKS_S:
                time.sleep(pause)
                if not self.active:
                    continue
                idle_since = time.monotonic()
                if self._waiting:  # and so looks itself
                    continue
                with self.lock:
                    moved = self._advance()
                self.tell()
                pause = _LOOK_S if moved else min(1.5 * pause, _LONGEST_LOOK_S)
            self._parked = True
            if self.active:  # begun in between
                self._bell.set()


PROGRESS = Progress()  # a process's one: a rank that waits in any group moves them all
