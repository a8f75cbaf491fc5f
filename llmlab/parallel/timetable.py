"""What a pipeline schedule does: whether it runs at all, when each action would, and how much it holds.

    seconds of a step = microbatches x (F + B) + bubble        F, B: seconds of one microbatch, forward and backward

Nothing is run here: an action takes as long as it is said to, a message nothing, or `hop`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmlab.arguments import instance, instances, numbers, real, table
from llmlab.parallel.schedules import Action, Schedule


def problems(schedule: Schedule) -> list[str]:
    """Say all that is wrong with a schedule: nothing, if it runs and makes every gradient once."""
    instance("a timetable", "schedule", schedule, Schedule, "make_schedule(name, ranks, microbatches)")
    return _incomplete(schedule) or _out_of_order(schedule) or _stuck(schedule)


def check(schedule: Schedule) -> Schedule:
    """Give the schedule back. Raises ValueError with what is wrong with it, the first three things of many."""
    found = problems(schedule)
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(f"schedule {schedule.name!r} does not run: {'; '.join(found[:3])}{more}")
    return schedule


def in_flight(schedule: Schedule) -> list[int]:
    """Count, per rank, the most microbatches (of all its stages) begun and not ended at one time."""
    most = []
    instance("in_flight", "schedule", schedule, Schedule, "make_schedule(name, ranks, microbatches)")
    for row in schedule.actions:
        held = [0]
        for action in row:
            held.append(held[-1] + (action.kind == "F") - schedule.last(action))
        most.append(max(held))
    return most


@dataclass(frozen=True)
class Slot:
    """An action on its rank from start to stop, in the unit of its costs."""

    rank: int
    action: Action
    start: float
    stop: float


def timetable(
    schedule: Schedule, costs: Mapping[str, float] | None = None, hop: float = 0.0, sizes: Sequence[float] | None = None
) -> list[Slot]:
    """Say when each action runs if every rank goes down its list as soon as it can.

    costs: what "F", "B" and "W" of one microbatch take on a rank; None: F takes 1, B 2, or B 1 and W 1.  hop: what a
    message takes to another rank.  sizes: by what each stage multiplies these costs (None: a rank's stages share them
    evenly). Raises ValueError for a schedule that does not run.
    """
    check(schedule)
    real("timetable", "hop", hop, least=0)
    costs = _costs(schedule, costs)
    even = [len(schedule.actions) / schedule.stages] * schedule.stages
    sizes = even if sizes is None else numbers("timetable", "sizes", sizes)
    if len(sizes) != schedule.stages:
        raise ValueError(f"sizes want a number for each of {schedule.stages} stages, got {len(sizes)}")
    free, ends, slots = [0.0] * len(schedule.actions), dict[Action, float](), []
    for action in _walk(schedule):
        rank, needed = schedule.place[action][0], schedule.needs(action)
        start = free[rank]
        if needed is not None:
            start = max(start, ends[needed] + hop * (schedule.place[needed][0] != rank))
        free[rank] = ends[action] = start + costs[action.kind] * sizes[action.stage]
        slots.append(Slot(rank, action, start, ends[action]))
    return slots


def _costs(schedule: Schedule, costs: Mapping[str, float] | None) -> Mapping[str, float]:
    usual = {"F": 1, "B": 1, "W": 1} if schedule.splits_backward else {"F": 1, "B": 2}
    if costs is None:
        return usual
    if not set(usual) <= set(table("timetable", "costs", costs, '{"F": 1, "B": 2}')) <= {"F", "B", "W"}:
        raise ValueError(f"timetable wants costs of {', '.join(usual)}, which {schedule.name} has; got {costs}")
    return {kind: real("timetable", f"the cost of {kind}", cost, least=0) for kind, cost in costs.items()}


def idle(slots: Sequence[Slot]) -> list[float]:
    """Give, per rank, its bubble: the time within the whole step in which it runs nothing."""
    slots = instances("idle", "slots", slots, Slot, "what timetable(schedule) gives")
    if not slots:
        raise ValueError("idle wants slots as one action or more; got none")
    end, ranks = max(slot.stop for slot in slots), 1 + max(slot.rank for slot in slots)
    return [end - sum(slot.stop - slot.start for slot in slots if slot.rank == rank) for rank in range(ranks)]


# --- inside -----------------------------------------------------------------------------------------------------------


def _incomplete(schedule: Schedule) -> list[str]:
    """Every microbatch once through every stage, each stage on one rank."""
    kinds = "FBW" if schedule.splits_backward else "FB"
    every = [Action(k, s, i) for s in range(schedule.stages) for i in range(schedule.microbatches) for k in kinds]
    if not every:
        return ["it holds no action"]
    counts = Counter(action for row in schedule.actions for action in row)
    wrong = [f"{action} wants to be done once, got {counts[action]} times" for action in every if counts[action] != 1]
    return wrong or [
        f"stage {a.stage} is on rank {schedule.rank_of(a.stage)}, got {a} on rank {rank}"
        for a, (rank, _) in schedule.place.items()
        if rank != schedule.rank_of(a.stage)
    ]


def _out_of_order(schedule: Schedule) -> list[str]:
    """Forward before backward, and that before the weights' gradients, of each microbatch at each stage."""
    wrong = []
    for action, (rank, i) in schedule.place.items():
        earlier = {"B": "F", "W": "B"}.get(action.kind)
        first = earlier and Action(earlier, action.stage, action.microbatch)
        if first and schedule.place[first][1] > i:
            wrong.append(f"rank {rank} wants {first} before {action}, got it after")
    return wrong


def _stuck(schedule: Schedule) -> list[str]:
    """Say where the ranks are that cannot get to their list's end, each waiting for another."""
    done = Counter(schedule.place[action][0] for action in _walk(schedule))
    waits = [(rank, row[done[rank]]) for rank, row in enumerate(schedule.actions) if done[rank] < len(row)]
    said = [f"rank {rank} waits at {action} for {schedule.needs(action)}" for rank, action in waits]
    return [f"deadlock: {', '.join(said)}"] if said else []


def _walk(schedule: Schedule) -> list[Action]:
    """Let every rank go on as long as what it needs has been sent; give all that was done, in an order that works."""
    at, done = [0] * len(schedule.actions), dict[Action, None]()
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(schedule.actions):
            while at[rank] < len(row) and ((needed := schedule.needs(row[at[rank]])) is None or needed in done):
                done[row[at[rank]]] = None
                at[rank] += 1
                moved = True
    return list(done)
