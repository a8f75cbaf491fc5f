"""One rank runs at a time: threads used as coroutines, the baton handed from one to the next over raw locks.

A rank runs until it must wait for another's data, for a moment that is not known yet, or until it ends. When nobody can
run, virtual time moves on; when that wakes nobody either, it is a deadlock, found at once.
"""

from __future__ import annotations

import ctypes
from _thread import allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmlab.comm.seeding import RandomState


class Aborted(BaseException):
    """Ends a rank's thread when the run has failed elsewhere; never seen by a caller."""


@dataclass(eq=False)
class Task:
    """A thread that holds, or waits for, the baton."""

    number: int
    body: Callable[[], Any]
    state: RandomState
    lock: Any = field(default_factory=allocate_lock)
    ended: Any = field(default_factory=allocate_lock)  # free once the thread is over
    thread: int | None = None  # its identity; None before it starts
    status: str = "ready"  # ready, running, waiting, done

    def __post_init__(self) -> None:
        self.lock.acquire()


@dataclass
class Scheduler:
    """Runs tasks one at a time until all are done or one fails. `idle` is asked for progress when nobody can run."""

    idle: Callable[[], bool]  # True: somebody was woken (or the run has failed)
    on_switch: Callable[[], None] = lambda: None
    tasks: list[Task] = field(default_factory=list)
    ready: deque[Task] = field(default_factory=deque)
    current: Task | None = None
    failure: BaseException | None = None
    aborting: bool = False
    _main: Any = field(default_factory=allocate_lock)
    _caller: RandomState = field(default_factory=lambda: RandomState(0, 0))

    def add(self, task: Task) -> None:
        self.tasks.append(task)
        self.ready.append(task)

    def run(self, every: float, meanwhile: Callable[[], None]) -> None:
        """Run to the end; the calling thread does `meanwhile` every so many seconds. Raises the failure, if any."""
        self._caller.leave()
        self._main.acquire()
        try:
            self._hand_over()
            while not self._main.acquire(timeout=every):
                meanwhile()
        except BaseException as interrupt:  # Ctrl-C in the calling thread
            self.failure = self.failure or interrupt
            self._interrupt_running()
        self._unwind()
        self._caller.enter()
        meanwhile()
        if self.failure is not None:
            raise self.failure

    def wait(self, ready: Callable[[], bool]) -> None:
        """Let others run until `ready()`; whoever makes it so calls `wake`."""
        while not ready():
            self.pause()

    def pause(self) -> None:
        """Let others run until somebody wakes this one, who looks whether what it waits for is there."""
        me = self.current
        assert me is not None
        me.status = "waiting"
        self._switch(me)

    def yield_turn(self) -> None:
        """Let those who are ready run first."""
        me = self.current
        assert me is not None
        self.ready.append(me)
        self._switch(me)

    def wake(self, task: Task) -> None:
        if task.status == "waiting":
            task.status = "ready"
            self.ready.append(task)

    def fail(self, error: BaseException) -> None:
        """End the run with this error; the first one counts."""
        self.failure = self.failure or error
        self.aborting = True

    # --- the baton ------------------------------------------------------------------------------------------------

    def _thread(self, task: Task) -> None:
        task.lock.acquire()
        try:
            if not self.aborting:
                task.body()
        except Aborted:
            pass
        except BaseException as error:  # body() reports its own failures; this is one of ours
            self.fail(error)
        task.status = "done"
        task.state.leave()
        if not self.aborting:
            self._hand_over()
        else:
            self._release_main()
        task.ended.release()

    def _switch(self, me: Task) -> None:
        me.state.leave()
        self._hand_over(me)
        if self.aborting:
            raise Aborted
        me.status = "running"

    def _hand_over(self, me: Task | None = None) -> None:
        """Give the baton to the next task, or back to the caller; return when `me` has it again."""
        self.on_switch()
        while not self.ready and not self.aborting and any(t.status == "waiting" for t in self.tasks):
            if not self.idle():
                break
        if self.aborting or not self.ready:
            self._release_main()
        else:
            task = self.ready.popleft()
            task.status, self.current = "running", task
            task.state.enter()
            if task is me:
                return
            self._start_or_release(task)
        if me is not None:
            me.lock.acquire()

    def _start_or_release(self, task: Task) -> None:
        if task.thread is None:  # a bare thread: threading.Thread would wait for it to come up, 512 times
            task.ended.acquire()
            task.thread = start_new_thread(self._thread, (task,))
        task.lock.release()

    def _release_main(self) -> None:
        if self._main.locked():
            self._main.release()

    # --- the end --------------------------------------------------------------------------------------------------

    def _unwind(self) -> None:
        """Let every thread that still waits run its `finally` blocks, one after another."""
        self.aborting = True
        for task in self.tasks:
            for _ in range(20 if task.thread else 0):  # a worker that swallows what it should not is asked again
                if not task.ended.locked():
                    break
                self.current = task
                if task.lock.locked():
                    task.lock.release()
                if task.ended.acquire(timeout=0.5):
                    break

    def _interrupt_running(self) -> None:
        """A rank that loops in pure Python asks nothing of us: raise in its thread."""
        self.aborting = True
        task = self.current
        if task is not None and task.thread is not None and task.status == "running":
            thread = ctypes.c_ulong(task.thread)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Aborted))
