"""A pipeline schedule drawn: a row per rank, a box per action with its microbatch's number; the white is the bubble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from llmlab.arguments import instance, wholes
from llmlab.measuring import count
from llmlab.parallel.schedules import Schedule, make_schedule
from llmlab.parallel.timetable import Slot, idle, in_flight, timetable
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW, edge_on, listing, text_on, three_digits

BELOW = "A plan: every action takes what it is said to take; nothing was run."
WORDS = {"F": "forward", "B": "backward", "W": "weights' gradients"}
# the first stage of a rank, and its others
COLOURS = {"F": (BLUE, SKY), "B": (ORANGE, YELLOW), "W": (PURPLE, GREEN)}
HATCHES = {"F": "", "B": "//", "W": ".."}


@styled
def schedule(
    name_or_schedule: str | Schedule,
    stages: int = 4,
    microbatches: int = 8,
    *,
    virtual_stages: int = 1,
    costs: Mapping[str, float] | None = None,
    hop: float = 0.0,
    sizes: Sequence[float] | None = None,
    figure: Picture | None = None,
) -> Picture:
    """Draw a schedule by name, on `stages` ranks, or a Schedule of one's own.

    costs, hop, sizes: as `timetable` takes them. By default a backward costs two forwards. Raises ValueError for a
    schedule that does not run.
    """
    plan = name_or_schedule
    if isinstance(plan, str):
        wholes("schedule", 1, stages=stages, microbatches=microbatches, virtual_stages=virtual_stages)
        plan = make_schedule(plan, stages, microbatches, virtual_stages)
    instance("schedule", "name_or_schedule", plan, Schedule, "or a name such as '1f1b'")
    slots = timetable(plan, costs, hop, sizes)
    end, ranks = max(slot.stop for slot in slots), len(plan.actions)
    figure = canvas(figure, (9, 1.9 + 0.36 * ranks))
    axes = figure.subplots()
    for slot in slots:
        _box(axes, slot, slot.action.stage // ranks > 0, end)
    axes.set_xlim(0, end)
    axes.set_ylim(ranks - 0.5, -0.5)  # rank 0 on top
    axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time (1 = the forward of one microbatch on one rank)" if costs is None else "time")
    waiting = sum(idle(slots)) / ranks / end
    axes.set_title(
        f"{plan.name}, {plan.microbatches} through {count(plan.stages, 'stage')}: ranks wait {waiting:.0%}", loc="left"
    )
    figure.legend(handles=_legend(plan), loc="outside upper left", ncols=6, fontsize=11, handlelength=2)
    return finish(figure, describe_schedule(plan, slots), BELOW)


def describe_schedule(plan: Schedule, slots: Sequence[Slot]) -> str:
    """Say how long a step takes, how much of it the ranks wait, and how many microbatches each holds."""
    end, waits = max(slot.stop for slot in slots), idle(slots)
    held = [str(n) for n in in_flight(plan)]
    each = (
        f"each rank waits {three_digits(waits[0])}"
        if max(waits) - min(waits) < 1e-9 * end
        else f"the ranks wait {listing([three_digits(wait) for wait in waits])}"
    )
    plural = "" if plan.microbatches == 1 else "es"
    return (
        f"{plan.name}: {plan.microbatches} microbatch{plural} through {count(plan.stages, 'stage')} on "
        f"{count(len(plan.actions), 'rank')} take {three_digits(end)}, of which {each} "
        f"({sum(waits) / len(waits) / end:.0%}); rank by rank at most {listing(held)} microbatches are in flight."
    )


def _box(axes: Axes, slot: Slot, further: bool, end: float) -> None:
    """Draw an action, with its microbatch's number where it has room."""
    width, kind = slot.stop - slot.start, slot.action.kind
    colour = COLOURS[kind][further]
    style: dict[str, Any] = {
        "facecolor": colour,
        "hatch": HATCHES[kind],
        "edgecolor": edge_on(colour),
        "linewidth": 0.8,
    }
    axes.add_patch(Rectangle((slot.start, slot.rank - 0.42), width, 0.84, label=str(slot.action), **style))
    if width / end > 0.008 * (1 + len(str(slot.action.microbatch))):
        behind = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        axes.text(
            slot.start + width / 2, slot.rank, str(slot.action.microbatch), ha="center", va="center_baseline",
            fontsize=9, color=text_on(colour), bbox=behind, clip_on=True,
        )  # fmt: skip


def _legend(plan: Schedule) -> list[Patch]:
    found = dict.fromkeys((a.kind, a.stage // len(plan.actions) > 0) for row in plan.actions for a in row)
    order = sorted(found, key=lambda each: ("FBW".index(each[0]), each[1]))
    return [
        Patch(
            label=WORDS[kind] + (", later stages" if further else ""),
            facecolor=COLOURS[kind][further], hatch=HATCHES[kind], edgecolor=edge_on(COLOURS[kind][further]),
        )
        for kind, further in order
    ]  # fmt: skip
