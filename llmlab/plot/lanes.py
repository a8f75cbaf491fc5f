"""A trace as lanes of spans: what a timeline draws, computed before anything is drawn.

A lane is one stream of one rank. On a virtual clock a message or a collective is two spans: it waits until the last of
its ranks has come to it, then bytes move. On the compute lane the gaps are spans too, of kind "idle": the time in which
a rank computes nothing. What is too short to be seen is merged with its neighbours of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmlab.comm.trace import Event, Trace
from llmlab.diagnosing import met_of
from llmlab.plot.style import say_bytes, say_seconds

KINDS = ("compute", "collective", "send or recv", "waiting", "idle", "host")
STREAMS = ("compute", "comm", "host")
WAITS = "waits"  # the stream of the part of a message or collective in which another rank has not come to it yet
MAX_RANKS = 16
SMALLEST = 1 / 1500  # of the time axis: about a pixel
SHORT = 1 / 120  # of the time axis: too short for an outline


@dataclass(frozen=True)
class Span:
    """A stretch of a lane, in seconds: `label` is what to write on it, `note` the whole story."""

    kind: str
    start: float
    stop: float
    label: str
    note: str

    @property
    def seconds(self) -> float:
        return self.stop - self.start


@dataclass(frozen=True)
class Lane:
    rank: int
    stream: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Lanes:
    """The lanes of a trace, ordered by rank, then stream. `note` says which ranks were left out."""

    lanes: tuple[Lane, ...]
    seconds: float
    note: str

    @property
    def ranks(self) -> list[int]:
        return sorted({lane.rank for lane in self.lanes})

    @property
    def kinds(self) -> list[str]:
        """The kinds there are, in the legend's order."""
        found = {span.kind for lane in self.lanes for span in lane.spans}
        return [kind for kind in KINDS if kind in found]


def lanes_of(trace: Trace, until: float | None = None, max_ranks: int = MAX_RANKS) -> Lanes:
    """Lay a trace out. `until`: where the time axis ends, if later than the trace, so that two traces share one.

    Raises ValueError for a trace without events.
    """
    if not len(trace):
        raise ValueError("a timeline wants a trace with events, got an empty one")
    seconds = max(event.stop for event in trace)
    ranks, note = chosen(sorted({event.rank for event in trace}), max_ranks)
    events: dict[tuple[int, str], list[Event]] = {}
    for event in trace:
        events.setdefault((event.rank, event.stream), []).append(event)
    met = met_of(trace) if trace.clock == "virtual" else {}  # a wall clock does not know when others came
    recorded = computes(trace)
    smallest = SMALLEST * max(seconds, until or 0.0)
    lanes = []
    for rank in ranks:
        for stream in STREAMS:
            found = events.get((rank, stream), [])
            if found or (stream == "compute" and recorded):  # a rank that computes nothing is idle, and has its lane
                lanes.append(Lane(rank, stream, _spans(rank, stream, found, met, seconds, smallest)))
    return Lanes(tuple(lanes), seconds, note)


def computes(trace: Trace) -> bool:
    """Whether the trace knows of any computing; one of processes may hold messages only, and then nobody is idle."""
    return any(event.stream == "compute" for event in trace)


def idle_seconds(trace: Trace, rank: int) -> float:
    """Seconds, up to the end of the last rank, in which this rank computes nothing (to the clock's picosecond)."""
    return round(max(event.stop for event in trace) - trace.busy(rank, "compute"), 12)


def chosen(ranks: list[int], most: int) -> tuple[list[int], str]:
    """Thin out too many ranks to draw: those kept, evenly spaced, and the note that says so."""
    if len(ranks) <= most:
        return ranks, ""
    kept = sorted({ranks[round(i * (len(ranks) - 1) / (most - 1))] for i in range(most)})
    return kept, f"{len(kept)} of {len(ranks)} ranks shown, evenly spaced."


def _spans(
    rank: int, stream: str, events: list[Event], met: Mapping[Event, float], seconds: float, smallest: float
) -> tuple[Span, ...]:
    spans = [_span(rank, kind, group) for kind, group in _merged(_in_turn(events, met, smallest), smallest)]
    if stream == "compute":
        spans += [
            Span("idle", start, stop, "", f"rank {rank}: computes nothing, {_interval(start, stop)}")
            for start, stop in _gaps(spans, seconds)
            if stop - start >= smallest
        ]
    return tuple(sorted(spans, key=lambda s: s.start))


def _in_turn(events: list[Event], met: Mapping[Event, float], smallest: float) -> list[Event]:
    """Order a lane's events, each cut in two where the last of its ranks came to it.

    A collective that was queued behind its group's previous one begins, or waits, when that ended.
    """
    ordered, ends = [], dict[str, float]()
    for event in sorted(events, key=lambda e: (e.start, e.stop)):
        moves = met.get(event, event.start)
        if kind_of(event) == "collective":
            event = replace(event, start=min(max(event.start, ends.get(event.axis, event.start)), event.stop))
            ends[event.axis] = event.stop
        ordered += _waits_and_moves(event, moves, smallest)
    return sorted(ordered, key=lambda e: (e.start, e.stop))


def _waits_and_moves(event: Event, met: float, smallest: float) -> list[Event]:
    """Cut an event in two where the last of its ranks came to it, unless the wait is too short to be seen."""
    if met - event.start < smallest:
        return [event]
    met = min(met, event.stop)
    return [replace(event, stream=WAITS, stop=met, nbytes=0), replace(event, start=met)]


def _merged(events: list[Event], smallest: float) -> list[tuple[str, list[Event]]]:
    """Group neighbours that could not be seen apart: of one kind, touching, and all too short."""
    groups: list[tuple[str, list[Event]]] = []
    for event in events:
        kind = kind_of(event)
        if groups and groups[-1][0] == kind and kind != "host":
            last = groups[-1][1][-1]
            tiny = event.seconds < smallest or last.seconds < smallest
            if tiny and event.start - last.stop < smallest:
                groups[-1][1].append(event)
                continue
        groups.append((kind, [event]))
    return groups


def kind_of(event: Event) -> str:
    """Sort an event into one of KINDS (all but idle)."""
    if event.stream == WAITS:
        return "waiting"
    if event.stream != "comm":  # torch has kernels of the same names as collectives: gather, scatter
        return "host" if event.stream == "host" else "compute"
    return "send or recv" if event.op in ("send", "recv") else "collective"


def _span(rank: int, kind: str, events: list[Event]) -> Span:
    start, stop = events[0].start, max(event.stop for event in events)
    label = "waits" if kind == "waiting" else events[0].op if len({event.op for event in events}) == 1 else kind
    event = events[0]
    what = label if len(events) == 1 else f"{len(events)} x {label}"
    what += f" in {event.op}" if kind == "waiting" and len(events) == 1 else ""
    if len(events) == 1 and event.peer is not None:
        what += f" {'from' if event.op == 'recv' else 'to'} rank {event.peer}"
    if event.axis and len(events) == 1:
        what += f" along {event.axis}"
    note = f"rank {rank}: {what}, {_interval(start, stop)}"
    nbytes, flops = sum(e.nbytes for e in events), sum(e.flops for e in events)
    if kind in ("collective", "send or recv") and nbytes:
        note += f", {say_bytes(nbytes)} handed over"
    if flops:
        note += f", {flops:,} FLOPs"
    return Span(kind, start, stop, label, note)


def _gaps(spans: list[Span], seconds: float) -> list[tuple[float, float]]:
    gaps, end = [], 0.0
    for span in sorted(spans, key=lambda s: s.start):
        if span.start > end:
            gaps.append((end, span.start))
        end = max(end, span.stop)
    if seconds > end:
        gaps.append((end, seconds))
    return gaps


def _interval(start: float, stop: float) -> str:
    return f"{say_seconds(start)} to {say_seconds(stop)} ({say_seconds(stop - start)})"
