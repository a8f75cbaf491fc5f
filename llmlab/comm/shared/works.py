"""What torch.distributed hands to the caller of an operation: a Work, under way or done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from llmlab.comm.shared.memory import Memory

NAME = "llmlab"  # of the backend
Work = TypeVar("Work", bound=dist.Work)


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


class Mover(Protocol):
    """Who makes operations go on; see `progress.py`."""

    lock: threading.Lock
    finished: list[Operation]  # whose futures are to be told

    def until(self, operation: Operation, limit_s: float) -> None:
        """Move everything until this operation is done."""

    def look(self) -> None:
        """Do what can be done without waiting."""

    def attend(self) -> None:
        """See to what is under way while its caller does something else."""

    def tell(self) -> None:
        """Fulfil the futures of what has finished."""


class Operation(dist.Work):
    """One rank's part in an operation, under way or done: the Work that torch.distributed hands to its caller."""

    def __init__(self, mover: Mover, lane: Lane, words: str, results: list[Tensor], limit_s: float):
        super().__init__()
        self.mover, self.limit_s = mover, limit_s
        self.lane, self.words, self.results = lane, words, results
        self.done = False
        self.error: Exception | None = None
        self._future: torch.futures.Future[Any] | None = None

    def finish(self, error: Exception | None = None) -> None:
        """Called once, under the lock."""
        self.error, self.done = error, True
        if self._future is not None:
            self.mover.finished.append(self)

    def wait(self, timeout: timedelta | None = None) -> bool:
        if not self.done:
            limit = timeout.total_seconds() if isinstance(timeout, timedelta) else 0.0
            self.mover.until(self, limit or self.limit_s)
        if self.error is not None:
            raise self.error
        return True

    def is_completed(self) -> bool:
        if not self.done:
            self.mover.look()
        return self.done

    def get_future(self) -> torch.futures.Future[Any]:
        """A future of the results. DDP waits for it in C++, where nobody would look for the others' parts."""
        if self._future is None:
            with self.mover.lock:
                self._future = torch.futures.Future()
                if self.done:
                    self.mover.finished.append(self)
            self.mover.tell()
            if not self.done:
                self._wait_at_the_end_of_backward()
        return self._future

    def _wait_at_the_end_of_backward(self) -> None:
        """Within backward: do so before the callback in which DDP waits. Elsewhere the helper thread is enough."""
        try:
            torch.autograd.Variable._execution_engine.queue_callback(self._wait_quietly)
        except RuntimeError:
            self.mover.attend()

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

    def __init__(self, results: list[Tensor]):
        super().__init__()
        self.results = results

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def exception(self) -> Any:
        return None

    def result(self) -> list[Tensor]:
        return self.results

    def synchronize(self) -> None: ...

    def get_future(self) -> torch.futures.Future[Any]:
        future: torch.futures.Future[Any] = torch.futures.Future()
        future.set_result(self.results)
        return future


def recording(words: str) -> Any:
    """Begin a span of torch.profiler, if it is on, as gloo does; None if it is not."""
    if not torch.autograd._profiler_enabled():
        return None
    record = torch.profiler.record_function(f"{NAME}:{words}")
    record.__enter__()
    return record


def recorded(record: Any, work: Work) -> Work:
    """The same work, with whose end the span ends."""
    if isinstance(work, Finished) or (isinstance(work, Operation) and work.done):
        record.__exit__(None, None, None)
    else:
        record._call_end_callbacks_on_future(work.get_future())
    return work


class Several(Operation):
    """Operations of one group that are handed out as one."""

    def __init__(self, works: Sequence[Operation]):
        last = works[-1]
        results = [x for work in works for x in work.results]
        super().__init__(last.mover, last.lane, last.words, results, last.limit_s)
        self._works = works

    def wait(self, timeout: Any = None) -> bool:
        return all([work.wait(timeout) for work in self._works])

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def get_future(self) -> torch.futures.Future[Any]:
        parts = torch.futures.collect_all([work.get_future() for work in self._works])
        return parts.then(lambda _: self.results)


FINISHED = Finished([])  # where nobody asks for the results
