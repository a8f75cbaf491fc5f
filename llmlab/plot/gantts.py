"""Gantt charts of several jobs on one cluster: a row per rank, a box per piece; the white is what lies idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from llmlab.arguments import instances, table
from llmlab.measuring import count
from llmlab.parallel.jobs import JobSchedule, Piece
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import fill_style, listing, say_seconds, text_on, time_unit

BELOW = "Modelled: the jobs' run times are given."


@styled
def gantt(schedules: Mapping[str, JobSchedule], figure: Picture | None = None) -> Picture:
    """Draw one schedule {name: schedule}, or several one above the other on one time axis, a colour for each job.

    A triangle under the axis marks when a job arrives, if that is after the start.
    """
    found = table("gantt", "schedules", schedules, "{name: schedule}").values()
    instances("gantt", "schedules", found, JobSchedule, "what first_come(jobs, ranks) gives")
    end = max(schedule.seconds for schedule in schedules.values())
    names = list(dict.fromkeys(job.name for schedule in schedules.values() for job in schedule.jobs))
    styles = {name: fill_style(i) for i, name in enumerate(names)}
    heights = [0.34 * schedule.ranks + 0.75 for schedule in schedules.values()]
    figure = canvas(figure, (9, 0.8 + sum(heights)))
    rows = figure.subplots(len(schedules), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    unit, unit_name = time_unit(end)
    for axes, (name, schedule) in zip(rows, schedules.items(), strict=True):
        _draw(axes, schedule, styles, unit, end)
        axes.set_title(f"{name}: {say_seconds(schedule.seconds)}, {schedule.idle:.0%} idle", loc="left")
    rows[-1].set_xlabel(f"time ({unit_name})")
    handles = [Patch(label=name, **styles[name]) for name in names]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(8, len(names)), fontsize=11, handlelength=2)
    return finish(figure, describe_gantt(schedules), BELOW)


def describe_gantt(schedules: Mapping[str, JobSchedule]) -> str:
    """Say how long each schedule takes, how much of it is idle, and where its jobs are."""
    return " ".join(_describe(name, schedule) for name, schedule in schedules.items())


def _describe(name: str, schedule: JobSchedule) -> str:
    ends = listing([f"{job.name} ends at {say_seconds(_end(schedule, job.name))}" for job in schedule.jobs])
    return (
        f"{name}: {count(len(schedule.jobs), 'job')} on {count(schedule.ranks, 'rank')} in "
        f"{say_seconds(schedule.seconds)}, {schedule.idle:.0%} of the ranks' time idle; {ends}."
    )


def _end(schedule: JobSchedule, name: str) -> float:
    return max(piece.stop for piece in schedule.pieces if piece.job == name)


def _draw(axes: Axes, schedule: JobSchedule, styles: Mapping[str, dict], unit: float, end: float) -> None:
    for piece in schedule.pieces:
        for first, last in _runs(piece.ranks):
            _box(axes, piece, first, last, styles[piece.job], unit, end)
    axes.set_xlim(0, end / unit)
    axes.set_ylim(schedule.ranks - 0.4, -0.6)  # rank 0 on top
    axes.set_yticks(range(schedule.ranks), [f"rank {rank}" for rank in range(schedule.ranks)], fontsize=11)
    axes.tick_params(axis="y", length=0)
    late = [job.arrives / unit for job in schedule.jobs if job.arrives > 0]
    if late:  # an empty line that is not clipped leaves the layout no room at all
        axes.plot(late, [schedule.ranks - 0.4] * len(late), "^", color="black", markersize=8, clip_on=False, zorder=3)


def _box(axes: Axes, piece: Piece, first: int, last: int, style: dict, unit: float, end: float) -> None:
    """Draw a piece over neighbouring ranks, with its name where it has room."""
    seconds = piece.stop - piece.start
    box = Rectangle((piece.start / unit, first - 0.42), seconds / unit, last - first + 0.84, label=piece.job, **style)
    axes.add_patch(box)
    if seconds / end > (len(piece.job) + 1.5) / 100:
        middle = ((piece.start + seconds / 2) / unit, (first + last) / 2)
        behind = {"facecolor": style["facecolor"], "edgecolor": "none", "pad": 1.2}
        axes.text(
            *middle, piece.job, ha="center", va="center_baseline", fontsize=10, color=text_on(style["facecolor"]),
            bbox=behind, clip_on=True,
        )  # fmt: skip


def _runs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Join neighbouring ranks: 0, 1, 3 -> (0, 1), (3, 3)."""
    runs: list[tuple[int, int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][1] == rank - 1:
            runs[-1] = (runs[-1][0], rank)
        else:
            runs.append((rank, rank))
    return runs
