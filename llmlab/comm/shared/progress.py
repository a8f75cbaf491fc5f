"""What makes operations go on: whoever waits, whoever begins the next one, and a thread that looks after the rest.

All of a process's operations, of every group, are moved by one function under one lock: a rank that waits in one group
still does its part in another, so two groups used in another order on another rank do not stop each other.

There is no thread that copies in parallel: on as many ranks as cores it would take the core from the computation. A
rank writes its part when it begins an operation, and looks for the others' when it next calls, or waits. The helper
thread starts with the first operation that nobody waits for at once. It looks every fraction of a millisecond, as long
as something is under way and nobody is waiting, so that an operation ends although its caller computes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from llmlab.comm.shared.waiting import Patience, alive, cores
from llmlab.comm.shared.works import Lane, Operation

_LOOKS = 500  # at others' counters, some tens of nanoseconds each, before an operation is made to wait for them
_YIELDS = 20  # of the core to other ranks, likewise
_LOOK_S = 0.0002  # the helper's, while something moves
_LONGEST_LOOK_S = 0.002
_PARKS_S = 0.05  # without work, until it sleeps for good: waking it costs the caller more than a look


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

    def at_once(self, board: Any, plan: Any, tensors: Any, attended: bool) -> bool | None:
        """Try to do a collective without making an operation of it; see `Board.at_once`."""
        with self.lock:
            try:
                if not attended:  # whoever comes last finds all there, and its numbers still in the cache
                    came: bool | None = board.at_once(plan, tensors, 0)
                elif self.crowded:  # the one that is waited for may want this very core
                    came = board.at_once(plan, tensors, _YIELDS, os.sched_yield)
                else:
                    came = board.at_once(plan, tensors, _LOOKS)
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
        self._waits(1)
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
            self._waits(-1)

    def attend(self) -> None:
        """Let the helper thread look after what is under way."""
        if self._helper is None or not self._helper.is_alive():  # a forked child has none of its parent's threads
            self._parked = True
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

    def _waits(self, more: int) -> None:
        with self.lock:
            self._waiting += more

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
                moved = False
                if self.active:
                    idle_since = time.monotonic()
                    if not self._waiting:  # who waits looks itself
                        with self.lock:
                            moved = self._advance()
                        self.tell()
                pause = _LOOK_S if moved else min(1.5 * pause, _LONGEST_LOOK_S)
            self._parked = True
            if self.active:  # begun in between
                self._bell.set()


PROGRESS = Progress()  # a process's one: a rank that waits in any group moves them all
