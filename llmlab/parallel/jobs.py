"""Several jobs on one cluster: who gets which ranks, and when. A schedule is data: it is checked, tabulated and drawn.

    first_come  each has its ranks to itself, in the order of arrival     what a queue does if left alone
    backfill    a later job fills a hole if it delays nobody before it    Feitelson and Weil 1998, "Utilization and
                (the conservative kind)                                   predictability ... with backfilling"
    gang        jobs share ranks and take turns, a slice of time each;    Ousterhout 1982, "Scheduling techniques for
                in its turn a job runs on all its ranks at once           concurrent systems" (coscheduling)
    piecemeal   each takes what is free and waits for the rest            what not to do: it can wait for ever

All but the last give a job all its ranks at once, because its collectives wait for every one of them.

Run times are known here. Real schedulers have only the user's estimate, and end a job that passes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmlab.arguments import instances, real, string, whole
from llmlab.comm.errors import DeadlockError


@dataclass(frozen=True)
class Job:
    """So many ranks, all of them, for so many seconds; it may start once it has arrived."""

    name: str
    ranks: int
    seconds: float
    arrives: float = 0.0

    def __post_init__(self) -> None:
        string("Job", "name", self.name)
        whole("Job", "ranks", self.ranks, least=1)
        real("Job", "seconds", self.seconds, above=0)
        real("Job", "arrives", self.arrives, least=0)


@dataclass(frozen=True)
class Piece:
    """A job on some ranks from start to stop, in seconds."""

    job: str
    ranks: tuple[int, ...]
    start: float
    stop: float


@dataclass(frozen=True)
class JobSchedule:
    """The pieces of some jobs on a cluster of so many ranks."""

    jobs: tuple[Job, ...]
    ranks: int
    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        """When the last job ends."""
        return max((piece.stop for piece in self.pieces), default=0.0)

    @property
    def idle(self) -> float:
        """The share of the ranks' time, up to the end of the last job, in which they run nothing."""
        busy = sum(len(piece.ranks) * (piece.stop - piece.start) for piece in self.pieces)
        return 1 - busy / (self.ranks * self.seconds) if self.pieces else 0.0

    @property
    def waits(self) -> dict[str, float]:
        """Seconds from each job's arrival to its first piece."""
        return {job.name: min(p.start for p in self.pieces_of(job)) - job.arrives for job in self.jobs}

    @property
    def responses(self) -> dict[str, float]:
        """Seconds from each job's arrival to its end: what its owner sees."""
        return {job.name: max(p.stop for p in self.pieces_of(job)) - job.arrives for job in self.jobs}

    def pieces_of(self, job: Job) -> list[Piece]:
        return [piece for piece in self.pieces if piece.job == job.name]


Row = list[tuple[Job, tuple[int, ...]]]  # jobs that run side by side, each on its ranks


def first_come(jobs: Sequence[Job], ranks: int) -> JobSchedule:
    """Give each job its ranks to itself, in the order of arrival. Nobody overtakes, so ranks may lie idle."""
    return _placed(jobs, ranks, overtake=False)


def backfill(jobs: Sequence[Job], ranks: int) -> JobSchedule:
    """Place the jobs in the order of arrival, each where it can start first without moving those placed before it.

    Nobody starts later than under `first_come`.
    """
    return _placed(jobs, ranks, overtake=True)


def gang(jobs: Sequence[Job], ranks: int, slice_s: float, switch_s: float = 0.0) -> JobSchedule:
    """Let the jobs take turns, slice_s seconds each, side by side where they fit; a switch costs switch_s seconds.

    In its turn a job runs on all its ranks at once, or those that run would wait for the others: a gang.
    A job keeps its row of the turns and its ranks till it ends. All jobs' state must fit in memory together.
    """
    real("gang", "slice_s", slice_s, above=0)
    real("gang", "switch_s", switch_s, least=0)
    queue, left = _queued(jobs, ranks), {job.name: job.seconds for job in jobs}
    rows: list[Row] = []
    pieces: list[Piece] = []
    now, turn = 0.0, 0
    while queue or rows:
        now = now if rows else max(now, queue[0].arrives)
        while queue and queue[0].arrives <= now:
            _join(rows, queue.pop(0), ranks)
        row = rows[turn % len(rows)]
        ran = _run_slice(row, now, slice_s, left)
        pieces += ran
        row[:] = [(job, where) for job, where in row if left[job.name] > 0]
        now = max(piece.stop for piece in ran) + (switch_s if len(rows) > 1 else 0.0)
        turn = turn % len(rows) + bool(row)  # a row that is done leaves its place to the next
        rows = [row for row in rows if row]
    return JobSchedule(tuple(jobs), ranks, tuple(pieces))


def piecemeal(jobs: Sequence[Job], ranks: int) -> JobSchedule:
    """Hand out free ranks one by one, in turn, to the jobs that want more; each holds what it has and waits.

    Raises DeadlockError when all ranks are held and no job has all it wants.
    """
    queue, free = _queued(jobs, ranks), set(range(ranks))
    held: dict[Job, list[int]] = {}
    pieces: list[Piece] = []
    now = 0.0
    while queue or held:
        while queue and queue[0].arrives <= now:
            held[queue.pop(0)] = []
        pieces += _deal(held, free, now)
        moments = [p.stop for p in pieces if p.stop > now] + [job.arrives for job in queue]
        if not moments and held:
            said = ", ".join(f"{job.name} holds {len(has)} of its {job.ranks} ranks" for job, has in held.items())
            raise DeadlockError(f"no job can go on: {said}, and none is free")
        now = min(moments, default=now)
        free |= {rank for piece in pieces if piece.stop == now for rank in piece.ranks}
    return JobSchedule(tuple(jobs), ranks, tuple(pieces))


# --- inside -----------------------------------------------------------------------------------------------------------


def _placed(jobs: Sequence[Job], ranks: int, overtake: bool) -> JobSchedule:
    pieces: list[Piece] = []
    earliest = 0.0
    for job in _queued(jobs, ranks):
        piece = _first_fit(job, max(job.arrives, earliest), pieces, ranks)
        pieces.append(piece)
        earliest = 0.0 if overtake else piece.start
    return JobSchedule(tuple(jobs), ranks, tuple(pieces))


def _first_fit(job: Job, earliest: float, pieces: list[Piece], ranks: int) -> Piece:
    """Place a job at the first moment from `earliest` on at which enough ranks are free for all its time."""
    for start in sorted({earliest, *(p.stop for p in pieces if p.stop > earliest)}):
        stop = start + job.seconds
        taken = {rank for p in pieces if p.start < stop and start < p.stop for rank in p.ranks}
        free = [rank for rank in range(ranks) if rank not in taken]
        if len(free) >= job.ranks:
            return Piece(job.name, tuple(free[: job.ranks]), start, stop)
    raise AssertionError("after the last piece every rank is free")


def _join(rows: list[Row], job: Job, ranks: int) -> None:
    """Put a job in the first row of turns that has room for it, or in a new one."""
    for row in rows:
        free = sorted(set(range(ranks)) - {rank for _, where in row for rank in where})
        if len(free) >= job.ranks:
            row.append((job, tuple(free[: job.ranks])))
            return
    rows.append([(job, tuple(range(job.ranks)))])


def _run_slice(row: Row, now: float, slice_s: float, left: dict[str, float]) -> list[Piece]:
    """Run the jobs of a row for a slice, or to their end, and take it off what is left of them."""
    pieces = []
    for job, where in row:
        ends = left[job.name] <= slice_s * (1 + 1e-9)  # slices add up with rounding: leave no crumb for another turn
        seconds = left[job.name] if ends else slice_s
        left[job.name] -= seconds
        pieces.append(Piece(job.name, where, now, now + seconds))
    return pieces


def _deal(held: dict[Job, list[int]], free: set[int], now: float) -> list[Piece]:
    """Deal out the free ranks in turn; a job that has all it wants starts, and leaves those that wait."""
    started = []
    while free and held:
        for job in list(held):
            if free:
                held[job].append(min(free))
                free.remove(min(free))
            if len(held[job]) == job.ranks:
                started.append(Piece(job.name, tuple(held.pop(job)), now, now + job.seconds))
    return started


def _queued(jobs: Sequence[Job], ranks: int) -> list[Job]:
    """Put the jobs in the order of arrival. Raises ValueError for what no schedule could place."""
    whole("a job schedule", "ranks", ranks, least=1)
    jobs = instances("a job schedule", "jobs", jobs, Job)
    names = [job.name for job in jobs]
    if len(set(names)) != len(names):
        raise ValueError(f"jobs want different names, got {', '.join(names)}")
    for job in jobs:
        if not 1 <= job.ranks <= ranks:
            raise ValueError(f"job {job.name} wants 1 to {ranks} ranks on this cluster, got {job.ranks}")
    return sorted(jobs, key=lambda job: job.arrives)
