"""One rank's way to the others over torch.distributed: shared memory or gloo on the CPU, NCCL with a GPU each.

Used by real processes on this machine and by torchrun jobs. Every operation is written down in the rank's ledger, from
which the trace is made, and which shows what the rank waits in while it waits. The end of an asynchronous operation is
when this rank first noticed it: at its next call of the engine, or while it sleeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmlab.comm import reports
from llmlab.comm.call import Call, Side
from llmlab.comm.errors import RankError
from llmlab.comm.group import Group
from llmlab.comm.launched.ledger import Entry, Key, Ledger
from llmlab.comm.launched.shipping import PeerLost
from llmlab.comm.launched.torch_ops import OPERATIONS, Link
from llmlab.comm.shared import NAME, shared_empty


class TorchEngine:
    """The Engine protocol of `comm/group.py` on an initialised torch.distributed."""

    def __init__(self, ledger: Ledger, size: int, device: torch.device, strict: bool = False):
        self.ledger, self.device, self.strict = ledger, device, strict
        self.began = time.monotonic()
        self._everyone = tuple(range(size))
        self._links: dict[Key, Link] = {}
        self._open: list[_Pending] = []  # asynchronous operations whose end nobody has seen yet

    def world(self) -> Group:
        return Group(self._everyone, self.ledger.rank, "world", self)

    def begin(self, began: float) -> None:
        """Start a new run's record; `began` is its zero on the monotonic clock."""
        self.ledger.clear()
        self._open.clear()
        self.began = began

    def start(self, group: Group, call: Call) -> _Pending:
        self._look()
        entry = self.ledger.open(group, call)
        with self._waiting(entry):
            link = self._link(group)
            if self.strict and not call.is_message:
                self._compare(link, entry)
            works, finish = OPERATIONS[call.op](link, call)
        pending = _Pending(self, entry, works, finish)
        self._open.append(pending)
        return pending

    def prepare(self, families: dict[str, list[tuple[int, ...]]]) -> None:
        """Make this rank's groups along a new mesh's axes, so that no later call has to wait for one to be made."""
        for axis, family in families.items():
            for members in family:
                if self.ledger.rank in members and len(members) > 1:
                    self._link(Group(members, members.index(self.ledger.rank), axis, self))

    def shared_empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Make an empty tensor, in memory that other ranks can map if they do so over this transport."""
        if dist.get_backend() == NAME:
            return shared_empty(shape, dtype)
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clock(self) -> float:
        self._look()
        return time.monotonic() - self.began

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while any(pending.entry.stop is None for pending in self._open) and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.001))
            self._look()
        time.sleep(max(0.0, end - time.monotonic()))

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self._look()
        start = time.monotonic()
        try:
            yield
        finally:
            self.ledger.spans.append((name, start, time.monotonic()))
            self._look()

    def close(self) -> None:
        """Let go of torch's process groups, whoever still holds this engine, its groups or its handles.

        A group that outlives the interpreter's end keeps gloo's threads, and one of them may then ask for the
        interpreter, which ends the process with "terminate called without an active exception".
        """
        for pending in self._open:
            pending.works, pending.finish = (), _nothing
        for link in self._links.values():
            link.release()
        self._open.clear()
        self._links.clear()

    def not_waited(self) -> list[Entry]:
        return [pending.entry for pending in self._open if not pending.done]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Note which asynchronous operations have ended meanwhile. (A callback from gloo's threads would cost more.)"""
        for pending in self._open:
            pending.look()
        self._open = [pending for pending in self._open if not pending.done]

    def _link(self, group: Group) -> Link:
        key = (group.axis, group.members)
        if key not in self._links:
            self._links[key] = self._make_link(group, key)
        return self._links[key]

    def _make_link(self, group: Group, key: Key) -> Link:
        backend = str(dist.get_backend())
        made = dist.group.WORLD
        if key != ("world", self._everyone):
            with self._waiting(self.ledger.open_setup(key)):
                made = dist.new_group(list(group.members), use_local_synchronization=True)
        assert isinstance(made, dist.ProcessGroup) and isinstance(dist.group.WORLD, dist.ProcessGroup)
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"llmlab-{group.axis}")  # started when first used
        return Link(group, made, made if backend == "nccl" else dist.group.WORLD, thread, backend)

    def _compare(self, link: Link, entry: Entry) -> None:
        """strict=True: before a collective, let every member say what it is about to do. Raises MismatchError."""
        everyone: list[Any] = [None] * link.group.size
        dist.all_gather_object(everyone, entry.side, group=link.collective)
        sides: list[Side] = everyone
        if len({side.signature for side in sides}) > 1:
            raise reports.mismatch(entry.key[0], dict(zip(link.group.members, sides, strict=True)))

    @contextmanager
    def _waiting(self, entry: Entry) -> Iterator[None]:
        """Show what this rank waits in; say so when torch's transport breaks meanwhile."""
        before, main = self.ledger.waiting, threading.current_thread() is self.ledger.thread
        if main:  # a thread of the worker's own proves nothing about the rank
            self.ledger.waiting = entry
        try:
            yield
        except (RankError, PeerLost):
            raise
        except RuntimeError as error:
            raise PeerLost(f"{entry.op} on {entry.key[0]} broke off") from error
        finally:
            if main:
                self.ledger.waiting = before


@dataclass(eq=False)
class _Pending:
    """The handle of an operation under way."""

    engine: TorchEngine
    entry: Entry
    works: Sequence[Any]  # torch's Work, or torch_ops.Task
    finish: Callable[[], Any]
    done: bool = False
    result: Any = None

    def wait(self) -> Any:
        if not self.done:
            with self.engine._waiting(self.entry):
                for work in self.works:
                    work.wait()
                self.result = self.finish()
            self._close()
        return self.result

    def look(self) -> None:
        if self.entry.stop is None and all(work.is_completed() for work in self.works):
            self.entry.stop = time.monotonic()

    def _close(self) -> None:
        if self.engine.device.type == "cuda":  # NCCL's wait orders streams only: the host would note its own times
            torch.cuda.current_stream().synchronize()
        source = self.works[0]._source_rank() if self.entry.any_source else None
        self.engine.ledger.close(self.entry, source)
        self.done, self.works, self.finish = True, (), _nothing  # the tensors they held may go
        if self in self.engine._open:
            self.engine._open.remove(self)


def _nothing() -> None: ...
