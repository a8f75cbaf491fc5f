"""What a pipeline's stages hold while a schedule runs: the activations of every microbatch begun and not yet ended."""

from __future__ import annotations

from llmlab.arguments import instance, wholes
from llmlab.parallel.schedules import Schedule, make_schedule
from llmlab.parallel.timetable import in_flight, timetable
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLUE, listing

Curve = list[tuple[float, int]]  # (time, microbatches held from then on)


@styled
def stash(
    name_or_schedule: str | Schedule, stages: int = 4, microbatches: int = 8, figure: Picture | None = None
) -> Picture:
    """Draw, rank by rank, how many microbatches' activations are held at each time; a backward takes two forwards."""
    plan = name_or_schedule
    if isinstance(plan, str):
        wholes("stash", 1, stages=stages, microbatches=microbatches)
        plan = make_schedule(plan, stages, microbatches)
    instance("stash", "name_or_schedule", plan, Schedule, "or a name such as '1f1b'")
    curves, most = held(plan), max(in_flight(plan))
    figure = canvas(figure, (9, 1.2 + 0.75 * len(curves)))
    drawn = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for rank, (axes, curve) in enumerate(zip(drawn, curves, strict=True)):
        times, counts = zip(*curve, strict=True)
        axes.fill_between(times, counts, step="post", color=BLUE)
        axes.set_ylim(0, most * 1.15)
        axes.set_yticks([max(counts)])
        axes.set_ylabel(f"rank {rank}", rotation=0, ha="right", va="center", labelpad=8)
    drawn[0].set_title(f"{plan.name}: microbatches held", loc="left")
    drawn[-1].set_xlabel("time (1 = the forward of one microbatch on one rank)")
    return finish(figure, describe_stash(plan))


def held(plan: Schedule) -> list[Curve]:
    """Follow each rank's count: up where a forward starts, down where a microbatch's last action on it ends."""
    slots = timetable(plan)
    curves = []
    for rank in range(len(plan.actions)):
        own = [slot for slot in slots if slot.rank == rank]
        changes = [(slot.start, 1) for slot in own if slot.action.kind == "F"]
        changes += [(slot.stop, -1) for slot in own if plan.last(slot.action)]
        end = max(slot.stop for slot in slots)
        times = sorted({0.0, end, *(time for time, _ in changes)})
        # one that ends as another begins leaves the count as it is
        curves.append([(time, sum(change for when, change in changes if when <= time)) for time in times])
    return curves


def describe_stash(plan: Schedule) -> str:
    """Say the most that each rank holds."""
    most = listing([str(n) for n in in_flight(plan)])
    return f"{plan.name}, {plan.microbatches} microbatches: rank by rank at most {most} are held at one time."
