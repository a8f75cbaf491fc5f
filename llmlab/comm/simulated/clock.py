"""Virtual time: when each operation of each rank starts and ends, in integer picoseconds.

Ranks *issue* operations; this file *times* them. An operation's time is known at once when everything it waits for is
known; otherwise it is a `When` that resolves later. Messages share ports and links, so they are replayed in the order
of virtual time: flows start, slow one another down, and end (max-min sharing: Bertsekas & Gallager 1992, section 6.5).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from llmlab.comm.trace import Event

PS = 10**12  # picoseconds in a second
Port = tuple[str, str, int]  # ("port" in the node or "net" across, "in" or "out", rank)


def picoseconds(seconds: float) -> int:
    return round(seconds * PS)


class Logged(NamedTuple):
    """An event as the clock knows it, in picoseconds; `trace.Event` is the same in seconds."""

    rank: int
    stream: str
    op: str
    axis: str
    nbytes: int
    flops: int
    start: int
    stop: int
    peer: int | None

    def event(self) -> Event:
        made = Event.__new__(Event)  # a frozen one's own __init__ takes three times as long, and there are millions
        made.__dict__.update(zip(_FIELDS, self, strict=True))
        made.__dict__.update(start=self.start / PS, stop=self.stop / PS)
        return made


_FIELDS = tuple(each.name for each in fields(Event))


class When:
    """A moment not known yet, but no earlier than `least`."""

    __slots__ = ("least", "ps", "waiters")

    def __init__(self, least: int = 0) -> None:
        self.least = least
        self.ps: int | None = None
        self.waiters: list[Callable[[], None]] = []


Operation = tuple[int, str, str, str, int, int]  # the first fields of Logged


class Latest:
    """The latest of a known moment and of some that are not known yet, each with picoseconds added.

    Nobody resolves it: it is known when they are. So a thousand kernels in a row wait for the few moments that their
    rank waits for, and not each for the one before.
    """

    __slots__ = ("sure", "terms")

    def __init__(self, sure: int, terms: dict[When, int]) -> None:
        self.sure, self.terms = sure, terms

    @property
    def ps(self) -> int | None:
        latest = self.sure
        for when, by in self.terms.items():
            if when.ps is None:
                return None
            if when.ps + by > latest:
                latest = when.ps + by
        return latest

    @property
    def least(self) -> int:
        return max(self.sure, *(when.least + by for when, by in self.terms.items()))


class PutDown:
    """A kernel that begins at a moment not known yet, to be put down among `events` once it is."""

    __slots__ = ("begin", "duration", "events", "what")

    def __init__(self, begin: Latest, duration: int, events: list[Logged], what: Operation):
        self.begin, self.duration, self.events, self.what = begin, duration, events, what
        self()

    def __call__(self) -> None:
        awaited = unresolved(self.begin)
        if awaited:
            awaited[0].waiters.append(self)
            return
        start = known(self.begin)
        self.events.append(Logged(*self.what, start, start + self.duration, None))


Time = int | When | Latest
_NONE: dict[When, int] = {}
FEW = 4  # unknown moments that one is the latest of; more are made one


@dataclass(eq=False)
class Flow:
    """Bytes on their way: a message, or all of a collective's messages together.

    work: picoseconds it takes alone.  loads: the share of each port it uses when it runs at full speed.  kernel_of: the
    rank whose kernel this is, where communication slows kernels; it loads no port.
    """

    work: float
    loads: dict[Port, float]
    done: Callable[[int], None]
    kernel_of: int | None = None
    speed: float = 0.0
    order: int = 0


@dataclass
class Timeline:
    """Resolves when things happen. `now` is the latest moment up to which flows have been replayed."""

    kernel_share_lost: float = 0.0  # by a kernel, while its rank communicates
    now: int = 0
    active: list[Flow] = field(default_factory=list)
    _heap: list[tuple[int, int, Flow]] = field(default_factory=list)
    _count: int = 0
    _todo: deque[Callable[[], None]] = field(default_factory=deque)
    _draining: bool = False

    # --- moments ------------------------------------------------------------------------------------------------

    def after(self, times: Iterable[Time], then: Callable[[int], None]) -> None:
        """Call `then(latest)` as soon as all these moments are known."""
        times = list(times)
        unknown = {when for t in times for when in unresolved(t)}
        if not unknown:
            then(max(map(known, times)))
            return
        if len(unknown) == 1:
            unknown.pop().waiters.append(lambda: then(max(map(known, times))))
            return
        left = len(unknown)

        def one_more() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                then(max(map(known, times)))

        for t in unknown:
            t.waiters.append(one_more)

    def resolve(self, when: When, ps: int) -> None:
        """Say when it is, and tell those who waited (one after another, not nested: chains are long)."""
        when.ps = ps
        self._todo.extend(when.waiters)
        when.waiters.clear()
        if self._draining:
            return
        self._draining = True
        try:
            while self._todo:
                self._todo.popleft()()
        finally:
            self._draining = False

    def latest(self, *times: Time) -> int | Latest:
        """The latest of some moments."""
        sure = 0
        terms: dict[When, int] = {}
        for t in times:
            if isinstance(t, int):
                at, parts = t, _NONE
            elif isinstance(t, Latest):
                at, parts = t.sure, t.terms
            else:
                at, parts = 0, {t: 0}
            for when, by in parts.items():
                if when.ps is None:
                    terms[when] = max(by, terms.get(when, 0))
                elif when.ps + by > at:
                    at = when.ps + by
            if at > sure:
                sure = at
        if len(terms) <= FEW:
            return Latest(sure, terms) if terms else sure
        result = When(Latest(sure, terms).least)
        self.after([Latest(sure, terms)], lambda ps: self.resolve(result, ps))
        return Latest(0, {result: 0})

    def later(self, time: Time, by: int) -> int | Latest:
        """The moment `by` picoseconds after another."""
        if isinstance(time, int):
            return time + by
        found = self.latest(time)
        if isinstance(found, int):
            return found + by
        return Latest(found.sure + by, {when: more + by for when, more in found.terms.items()})

    # --- flows --------------------------------------------------------------------------------------------------

    def start_flow(self, at: int, flow: Flow) -> None:
        """Let a flow begin at a moment. One issued too late for it (a rank held back by its data) begins now."""
        self._count += 1
        flow.order = self._count
        heapq.heappush(self._heap, (max(at, self.now), flow.order, flow))

    def next_event(self) -> int | None:
        """When the next flow starts or ends; None when nothing is under way."""
        starts = self._heap[0][0] if self._heap else None
        ends = min((self._end(f) for f in self.active), default=None)
        return min((t for t in (starts, ends) if t is not None), default=None)

    def step(self) -> None:
        """Replay all that happens at the next moment."""
        moment = self.next_event()
        assert moment is not None
        ended = [f for f in self.active if self._end(f) <= moment]
        self.active = [f for f in self.active if self._end(f) > moment]
        for flow in self.active:
            flow.work -= flow.speed * (moment - self.now)
        self.now = moment
        while self._heap and self._heap[0][0] <= moment:
            self.active.append(heapq.heappop(self._heap)[2])
        share(self.active)
        self._slow_kernels()
        for flow in ended:
            flow.done(moment)

    def _slow_kernels(self) -> None:
        """A collective's own kernels take some of the processors that a matrix product would use."""
        busy = {port[-1] for flow in self.active for port in flow.loads}
        for flow in self.active:
            if flow.kernel_of in busy:
                flow.speed = 1.0 - self.kernel_share_lost

    def _end(self, flow: Flow) -> int:
        return self.now + -int(-flow.work // flow.speed)


def known(time: Time) -> int:
    """The picoseconds of a moment that is known."""
    ps = time if isinstance(time, int) else time.ps
    assert ps is not None
    return ps


def unresolved(time: Time) -> list[When]:
    """What must be known before this moment is."""
    if isinstance(time, int):
        return []
    return [when for when in (time.terms if isinstance(time, Latest) else [time]) if when.ps is None]


def least(time: Time) -> int:
    """The picoseconds before which a moment cannot be: its own where it is known."""
    return time if isinstance(time, int) else time.least if (ps := time.ps) is None else ps


def settled(time: Time) -> Time:
    """A moment as a plain integer where it is known already."""
    return time if isinstance(time, int) or (ps := time.ps) is None else ps


def share(flows: list[Flow]) -> None:
    """Give each flow its speed: all as fast as the most crowded port allows, then the rest faster, up to 1."""
    on: dict[Port, list[Flow]] = {}
    for flow in flows:
        flow.speed = 1.0
        for port in flow.loads:
            on.setdefault(port, []).append(flow)
    crowded = {port: fs for port, fs in on.items() if len(fs) > 1 and sum(f.loads[port] for f in fs) > 1 + 1e-9}
    fixed: set[int] = set()
    while crowded:
        port, speed = min(((p, _fair(p, fs, fixed)) for p, fs in crowded.items()), key=lambda pair: pair[1])
        if speed >= 1.0:
            break
        for flow in crowded.pop(port):
            if id(flow) not in fixed:
                flow.speed = speed
                fixed.add(id(flow))
        crowded = {p: fs for p, fs in crowded.items() if any(id(f) not in fixed for f in fs)}


def _fair(port: Port, flows: list[Flow], fixed: set[int]) -> float:
    """The speed that fills a port, after the flows whose speed another port has fixed."""
    taken = sum(f.loads[port] * f.speed for f in flows if id(f) in fixed)
    return max(1.0 - taken, 1e-9) / sum(f.loads[port] for f in flows if id(f) not in fixed)
