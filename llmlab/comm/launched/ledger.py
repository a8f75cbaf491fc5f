"""One rank's record of its communication: what it began, from which line, when it ended, what it waits in now.

The trace is made of it, and so is the evidence for a deadlock or a mismatch (`diagnosis.py`).
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

from llmlab.comm.call import Call, Side, Signature, signature
from llmlab.comm.group import Group
from llmlab.comm.where import Place, worker_line

Key = tuple[str, tuple[int, ...]]  # names a group: its axis and its members
RECENT = 16  # entries in an answer while a run goes on
SETUP = "the making of "  # precedes the axis in the key of a group that is being made


@dataclass(slots=True, eq=False)
class Entry:
    """One operation of this rank. `number` counts from 1 among the group's collectives, or the pair's messages."""

    op: str
    key: Key
    number: int
    signature: Signature
    nbytes: int
    line: Place
    start: float
    stop: float | None = None
    peer: int | None = None  # world rank; None for a collective, and for a receive from any until it is known
    any_source: bool = False

    @property
    def side(self) -> Side:
        """Say what this is, for reports."""
        return Side(self.op, self.key[0], self.signature, self.peer, self.line)

    def __reduce__(self) -> tuple[Any, ...]:  # one is written down for every operation: make it quick
        return Entry, _FIELDS(self)


_FIELDS = attrgetter(*(f.name for f in fields(Entry)))


@dataclass
class State:
    """What a rank says of itself when asked. Its counts say how many operations it has begun."""

    rank: int
    waiting: Entry | None
    line: Place | None
    collectives: dict[Key, int]
    sent: dict[tuple[Key, int], int]
    received: dict[tuple[Key, int], int]
    any_open: dict[Key, int]
    recent: list[Entry]
    when: float
    others: bool = False  # further threads of the worker's own may still act

    def short(self) -> State:
        """The same, with its last entries only."""
        return replace(self, recent=self.recent[-RECENT:])


@dataclass
class Ledger:
    """Kept by the thread that runs the worker, which makes it; read by the rank's control thread."""

    rank: int
    thread: threading.Thread = field(default_factory=threading.current_thread)  # the main one, but on Ray
    entries: list[Entry] = field(default_factory=list)
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    waiting: Entry | None = None
    collectives: defaultdict[Key, int] = field(default_factory=lambda: defaultdict(int))
    sent: defaultdict[tuple[Key, int], int] = field(default_factory=lambda: defaultdict(int))
    received: defaultdict[tuple[Key, int], int] = field(default_factory=lambda: defaultdict(int))
    any_open: defaultdict[Key, int] = field(default_factory=lambda: defaultdict(int))
    note: int | None = None  # descriptor of a file that always holds the last entry, for when the process is killed

    def clear(self) -> None:
        for kept in (self.entries, self.spans, self.collectives, self.sent, self.received, self.any_open):
            kept.clear()
        if self.note is not None:
            os.ftruncate(self.note, 0)

    def open(self, group: Group, call: Call) -> Entry:
        key = (group.axis, group.members)
        entry = Entry(call.name, key, 0, signature(call), call.nbytes, worker_line(), time.monotonic())
        if call.is_message:
            self._open_message(entry, group, call)
        else:
            entry.number = self._next(self.collectives, entry.key)
        self.entries.append(entry)
        if self.note is not None:
            os.pwrite(self.note, pickle.dumps(entry), 0)  # what an older, longer one leaves behind does no harm
        return entry

    def open_setup(self, key: Key) -> Entry:
        """The making of a group, which waits for its members like a collective. It is not part of the trace."""
        made = (f"{SETUP}{key[0]}", key[1])
        entry = Entry("Mesh", made, 0, Signature("Mesh"), 0, worker_line(), time.monotonic())
        entry.number = self._next(self.collectives, made)
        return entry

    def close(self, entry: Entry, source: int | None = None) -> None:
        if entry.stop is None:
            entry.stop = time.monotonic()
        if entry.any_source and source is not None:
            entry.peer, self.any_open[entry.key] = source, self.any_open[entry.key] - 1
            entry.number = self._next(self.received, (entry.key, source))

    def state(self, whole: bool = False) -> State:
        """Take a picture for the caller: with the last entries, or all."""
        return State(
            self.rank, self.waiting, _line_of(self.thread.ident or 0),
            dict(self.collectives), dict(self.sent), dict(self.received), dict(self.any_open),
            self.entries[0 if whole else -RECENT :], time.monotonic(), _others(self.thread),
        )  # fmt: skip

    def _open_message(self, entry: Entry, group: Group, call: Call) -> None:
        entry.peer = None if call.peer is None else group.members[call.peer]
        entry.any_source = call.peer is None
        if entry.any_source:
            self.any_open[entry.key] += 1
        else:
            entry.number = self._next(self.sent if entry.op == "send" else self.received, (entry.key, entry.peer))

    @staticmethod
    def _next(counts: defaultdict[Any, int], key: Any) -> int:
        counts[key] += 1
        return counts[key]


def _line_of(thread: int) -> Place | None:
    """Where a thread is. Its frame is not kept: our own would then hold itself, and all that its caller holds."""
    frame = sys._current_frames().get(thread)
    try:
        return worker_line(frame) if frame else None
    finally:
        del frame


def _others(thread: threading.Thread) -> bool:
    """Whether the worker has threads of its own, which may do what its first one waits for."""
    ours = thread, threading.main_thread()
    return any(t not in ours and not t.daemon and not t.name.startswith("llmlab") for t in threading.enumerate())
