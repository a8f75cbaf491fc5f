"""One rank's record of its communication: what it began, from which line, when it ended, what it waits in now.

The trace is made of it, and so is the evidence for a deadlock or a mismatch (`diagnosis.py`).
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import sysconfig
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from types import FrameType
from typing import Any

from llmlab.comm.group import Call, Group
from llmlab.comm.where import Place

Key = tuple[str, tuple[int, ...]]  # names a group: its axis and its members
RECENT = 16  # entries in an answer while a run goes on
SETUP = "the making of "  # precedes the axis in the key of a group that is being made

_COMM = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PACKAGE = os.path.dirname(os.path.dirname(_COMM)) + os.sep
_PYTHON = (sysconfig.get_paths()["stdlib"] + os.sep, "<frozen")


@dataclass(slots=True, eq=False)
class Entry:
    """One operation of this rank. `number` counts from 1 among the group's collectives, or the pair's messages."""

    op: str
    key: Key
    number: int
    signature: tuple[Any, ...]  # what every rank that takes part must agree on
    nbytes: int
    line: Place
    start: float
    stop: float | None = None
    peer: int | None = None  # world rank; None for a collective, and for a receive from any until it is known
    any_source: bool = False

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
    """Kept by the rank's main thread, read by its control thread."""

    rank: int
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
        op = call.op.removeprefix("i") if call.op in ("isend", "irecv") else call.op
        key = (group.axis, group.members)
        entry = Entry(op, key, 0, signature(call), call.nbytes, worker_line(), time.monotonic())
        if op in ("send", "recv"):
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
        entry = Entry("Mesh", made, 0, ("Mesh", None, None, None, None), 0, worker_line(), time.monotonic())
        entry.number = self._next(self.collectives, made)
        return entry

    def close(self, entry: Entry, source: int | None = None) -> None:
        if entry.stop is None:
            entry.stop = time.monotonic()
        if entry.any_source and source is not None:
            entry.peer, self.any_open[entry.key] = source, self.any_open[entry.key] - 1
            entry.number = self._next(self.received, (entry.key, source))

    def state(self, main_thread: int, whole: bool = False) -> State:
        """Take a picture for the caller: with the last entries, or all."""
        frame = sys._current_frames().get(main_thread)
        return State(
            self.rank, self.waiting, worker_line(frame) if frame else None,
            dict(self.collectives), dict(self.sent), dict(self.received), dict(self.any_open),
            self.entries[0 if whole else -RECENT :], time.monotonic(), _others(),
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


def signature(call: Call) -> tuple[Any, ...]:
    """What all ranks of a collective, or both ends of a message, must agree on."""
    if call.op == "all_to_all":  # shapes may differ
        return call.op, None, None, None, str(call.tensors[0].dtype)
    if call.op in ("scatter", "barrier"):  # only src knows the shape
        return call.op, None, call.root, None, None
    x = call.tensors[0]
    op = "message" if call.op in ("send", "recv", "isend", "irecv") else call.op
    return op, call.reduce, call.root, tuple(x.shape), str(x.dtype)


def words(entry: Entry) -> str:
    """An operation in a few words: `all_reduce(sum) on dp ((4, 5) float32)`."""
    _, reduce, root, shape, dtype = entry.signature
    how = ", ".join(([reduce] if reduce else []) + ([f"root {root}"] if root is not None else []))
    whom = ""
    if entry.op in ("send", "recv"):
        whom = (" to " if entry.op == "send" else " from ") + (
            f"rank {entry.peer}" if entry.peer is not None else "any rank"
        )
    what = f" ({shape} {dtype.removeprefix('torch.')})" if shape is not None else ""
    return f"{entry.op}{f'({how})' if how else ''}{whom} on {entry.key[0]}{what}"


def worker_line(frame: FrameType | None = None) -> Place:
    """Find the line of the worker that led here: the innermost frame outside this package, torch and Python itself.

    Where the worker is in this package, the innermost frame outside `comm`.
    """
    frame = frame or sys._getframe(1)
    fallback = None
    while frame is not None:
        kind = _kind(frame.f_code.co_filename)
        if kind == "worker" or (kind == "package" and fallback is None):
            line = Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            if kind == "worker":
                return line
            fallback = line
        frame = frame.f_back
    return fallback or Place("?", 0, "?")


@functools.cache
def _kind(filename: str) -> str:
    if filename.startswith(_COMM):
        return "library"
    if filename.startswith(_PACKAGE):
        return "package"
    return "library" if "site-packages" in filename or filename.startswith(_PYTHON) else "worker"


def _others() -> bool:
    """Whether the worker has threads of its own, which may do what its main thread waits for."""
    main = threading.main_thread()
    return any(t is not main and not t.daemon and not t.name.startswith("llmlab") for t in threading.enumerate())
