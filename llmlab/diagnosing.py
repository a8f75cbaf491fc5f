"""Where the time of a step went, and what that makes of the hardware: the table behind "why is MFU 22%?".

Every moment of a rank has one cause, the first of these that is true:

    matrix products   its device runs one (a kernel with FLOPs on the matrix unit; attention is one)
    other kernels     its device runs another kernel: element-wise, norm, loss, optimizer
    communication     bytes of its own message or collective travel, and it computes nothing: exposed
    waiting           it is in a message or a collective that another rank has not come to yet
    host              none of these: its device has been given nothing to do

MFU, the model FLOPs utilization: Chowdhery et al. 2022, "PaLM", section 4.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from llmlab.arguments import choice, instance, real, string, whole
from llmlab.comm.trace import COLLECTIVES, PRODUCT, Event, Run, Trace, union_seconds
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster

CAUSES = ("matrix products", "other kernels", "communication", "waiting", "host")
Spans = list[tuple[float, float]]


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of each rank by cause; each rank's add up to `seconds`. `flops`: what each rank's kernels computed."""

    seconds: float
    ranks: Mapping[int, Mapping[str, float]]
    flops: Mapping[int, int]
    hardware: str = ""

    def share(self, cause: str, rank: int | None = None) -> float:
        """Share of the time that went to a cause: of one rank, or of all together."""
        choice("share", "cause", cause, CAUSES)
        if rank is not None:
            choice("share", "rank", whole("share", "rank", rank), self.ranks)
        spent = [by_cause[cause] for number, by_cause in self.ranks.items() if rank in (None, number)]
        return sum(spent) / (self.seconds * len(spent))

    @property
    def shares(self) -> dict[str, float]:
        """Share of each cause, all ranks together."""
        return {cause: self.share(cause) for cause in CAUSES}

    @property
    def by_rank(self) -> dict[str, dict[str, float]]:
        """Share of each cause, rank by rank: {"rank 0": {cause: share}}."""
        return {f"rank {rank}": {cause: self.share(cause, rank) for cause in CAUSES} for rank in self.ranks}

    def __str__(self) -> str:
        rows = self.by_rank if len(self.ranks) == 1 else {**self.by_rank, "all": self.shares}
        lines = [" " * 8 + "".join(f"{cause:>17}" for cause in CAUSES)]
        lines += [f"{name:<8}" + "".join(f"{share:>17.0%}" for share in row.values()) for name, row in rows.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Utilization:
    """MFU as a product of three shares: mfu = products x rate x useful.

    products: share of the time in which a device runs matrix products.  rate: share of the published peak that it
    reaches in them.  useful: FLOPs the model needs, of those that were done (recomputing is work, but not progress).
    """

    products: float
    rate: float
    useful: float

    @property
    def mfu(self) -> float:
        return self.products * self.rate * self.useful

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilization: what is computed again counts too."""
        return self.products * self.rate

    def __str__(self) -> str:
        parts = f"{self.products:.0%} of the time in products x {self.rate:.0%} of the peak x {self.useful:.0%} useful"
        return f"MFU {self.mfu:.0%} = {parts}"


def within(run: Run, name: str) -> Run:
    """Cut out what happened inside the worker's `with world.span(name)`, on all ranks; its time begins at 0.

    Raises ValueError if no rank has a span of that name.
    """
    _run("within", run)
    string("within", "name", name)
    marks = [event for event in run.trace if event.stream == "host" and event.op == name]
    if not marks:
        named = sorted({event.op for event in run.trace if event.stream == "host"})
        raise ValueError(f"the run has no span {name!r}; the worker named {', '.join(named) or 'none'}")
    rest = Trace(tuple(e for e in run.trace if e not in marks), run.trace.clock, run.trace.hardware)
    return between(replace(run, trace=rest), min(e.start for e in marks), max(e.stop for e in marks))


def between(run: Run, start: float, stop: float) -> Run:
    """Cut a stretch of a run out, in seconds; its time begins at 0. What is cut through keeps its bytes and FLOPs."""
    _run("between", run)
    if not real("between", "start", start, least=0) < real("between", "stop", stop):
        raise ValueError(f"a stretch wants 0 <= start < stop, in seconds, got {start} and {stop}")
    kept = (
        replace(event, start=max(event.start, start) - start, stop=min(event.stop, stop) - start)
        for event in run.trace
        if event.start < stop and event.stop > start
    )
    return replace(run, trace=replace(run.trace, events=tuple(kept)), seconds=stop - start)


def time_spent(run: Run) -> TimeSpent:
    """Sort the time of every rank by cause: of a simulated run, or of a profile (`read_profile`).

    Raises ValueError for a run of processes, whose kernels are not recorded, and for one in which ranks were folded.
    """
    trace = _run("time_spent", run).trace
    ranks = sorted({event.rank for event in trace})
    if not any(event.stream == "compute" for event in trace):
        raise ValueError(
            f"time_spent wants the trace of a Simulator, with its kernels, or a profile; got one of {run.clock} time "
            "without kernels: profile the step with torch.profiler and give read_profile(files)"
        )
    if len(ranks) != run.ranks:
        raise ValueError(f"time_spent wants every rank's events: run without fold; got {len(ranks)} of {run.ranks}")
    met = met_of(trace)
    causes = {rank: _causes(trace.select(rank=rank), met, run.seconds) for rank in ranks}
    return TimeSpent(run.seconds, causes, {rank: trace.flops(rank) for rank in ranks}, run.hardware)


def utilization(
    spent: TimeSpent, model_flops: float, cluster: str | Cluster = "classroom", dtype: str = "bf16"
) -> Utilization:
    """Compare the FLOPs that the model needs in this time (`config.flops_per_token(seq)` x tokens) with the peak's.

    A profile does not say what was done: then all of it counts as useful. Raises ValueError for more than the devices
    could have done.
    """
    instance("utilization", "spent", spent, TimeSpent, "what time_spent(run) gives")
    real("utilization", "model_flops", model_flops, above=0)
    busy = sum(by_cause["matrix products"] for by_cause in spent.ranks.values())
    peak, done = find_cluster(cluster).device.peak(dtype), sum(spent.flops.values()) or model_flops
    if not busy:
        raise ValueError("utilization wants matrix products in what was spent, got none")
    found = Utilization(busy / (spent.seconds * len(spent.ranks)), done / (busy * peak), model_flops / done)
    if found.mfu > 1:
        raise ValueError(
            f"an MFU of {found.mfu:.0%}: more than the devices can do. Are all ranks counted, and was the clock read "
            "after the device had finished?"
        )
    return found


def exposed_by_axis(run: Run) -> dict[str, float]:
    """Share of all ranks' time in which bytes travel along an axis of the mesh and the rank computes nothing."""
    trace = _run("exposed_by_axis", run).trace
    ranks = sorted({event.rank for event in trace})
    met, seconds = met_of(trace), dict[str, float]()
    for rank in ranks:
        kernels = _spans(trace.select(rank=rank, stream="compute"))
        messages = trace.select(rank=rank, stream="comm")
        for axis in {event.axis for event in messages}:
            travels = [(met[event], event.stop) for event in messages if event.axis == axis]
            found = union_seconds(kernels + travels) - union_seconds(kernels)
            seconds[axis] = seconds.get(axis, 0.0) + found
    return {axis: seconds[axis] / (run.seconds * len(ranks)) for axis in sorted(seconds)}


def _run(call: str, run: Run) -> Run:
    return instance(call, "run", run, Run, "what engine.run(worker) gives, not its trace")


# --- one rank -------------------------------------------------------------------------------------------------------


def _causes(events: Trace, met: Mapping[Event, float], seconds: float) -> dict[str, float]:
    """Seconds by cause: what each adds to those before it."""
    kernels = [event for event in events if event.stream == "compute"]
    messages = [event for event in events if event.stream == "comm"]
    spans = (
        _spans(event for event in kernels if event.flops or event.op == PRODUCT),
        _spans(kernels),
        [(met[event], event.stop) for event in messages],
        _spans(messages),
        [(0.0, seconds)],
    )
    covered, before, causes = Spans(), 0.0, {}
    for cause, more in zip(CAUSES, spans, strict=True):
        covered += more
        causes[cause] = union_seconds(covered) - before
        before += causes[cause]
    return causes


def _spans(events: Iterable[Event]) -> Spans:
    return [(event.start, event.stop) for event in events]


def met_of(trace: Trace) -> dict[Event, float]:
    """For each message or collective the moment from which its bytes travel: when the last of its ranks was there.

    On a virtual clock those that take part in the same one are known by its end, which all of them share. One that
    queues behind its group's last one travels later than this says, but then that one's bytes do. On a wall clock ranks
    of a collective are known by its number among those of its kind; the shortest of them is how long bytes travel.
    """
    messages = [event for event in trace if event.stream == "comm"]
    if trace.clock == "wall":
        return _met_measured(messages)
    last: dict[tuple, float] = {}
    for event in messages:
        last[_meeting(event)] = max(event.start, last.get(_meeting(event), 0.0))
    return {event: last[_meeting(event)] for event in messages}


def _met_measured(messages: Iterable[Event]) -> dict[Event, float]:
    counted: dict[tuple[int, str, str], int] = {}
    meetings: dict[tuple[str, str, int], list[Event]] = {}
    met = {}
    for event in sorted(messages, key=lambda event: event.start):
        key = event.rank, event.op, event.axis
        counted[key] = counted.get(key, 0) + 1
        if event.op in COLLECTIVES:
            meetings.setdefault((event.op, event.axis, counted[key]), []).append(event)
        else:
            met[event] = event.start  # who sent it is not known
    for together in meetings.values():
        shortest = min(event.seconds for event in together)
        met |= {event: event.stop - shortest for event in together}
    return met


def _meeting(event: Event) -> tuple:
    """What all ranks of one message, or one collective, have in common."""
    if event.peer is None:
        return event.op, event.axis, event.stop
    ends = (event.rank, event.peer) if event.op == "send" else (event.peer, event.rank)
    return "message", ends, event.stop
