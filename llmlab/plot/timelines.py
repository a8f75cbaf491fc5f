"""Timelines: what every rank did, when. A row per rank, in it a lane per stream; the gaps are the lesson."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from llmlab.arguments import instance
from llmlab.arguments import listing as listing_
from llmlab.comm.trace import Run, Trace
from llmlab.measuring import CLOCKS, count
from llmlab.plot.lanes import MAX_RANKS, SHORT, Lane, Lanes, Span, computes, idle_seconds, lanes_of
from llmlab.plot.picture import SCREEN, Picture, canvas, finish, styled
from llmlab.plot.style import (
    KIND_STYLE,
    KIND_WORDS,
    caption,
    edge_on,
    listing,
    say_seconds,
    text_on,
    time_unit,
)  # fmt: skip
from llmlab.reporting import report

FURNITURE, TITLE = 1.75, 0.3  # inches for the legend, a title, the time axis and the caption; for a second title
LINE = 76  # letters of a title across the figure
LEAST = 7.5  # points of a row whose letters can still be read


@styled
def timeline(trace: Trace | Run, figure: Picture | None = None) -> Picture:
    """Draw a row per rank: computing, collectives, sends and receives, and where the rank computes nothing.

    Give the Run rather than its trace, and the caption says what the clock leaves out. More than 16 ranks, or than can
    be read, are thinned out.
    """
    trace, not_modelled = trace_of(trace)
    (laid,) = _fitting([trace], max(event.stop for event in trace), _inches(figure) - FURNITURE)
    figure = canvas(figure, (9, FURNITURE + _height(laid)))
    axes = figure.subplots()
    _draw(axes, laid, laid.seconds, figure.get_figheight() - FURNITURE)
    axes.set_title(_title(trace), loc="left")
    _legend(figure, laid.kinds)
    return finish(figure, describe_timeline(trace), caption(trace.hardware, trace.clock, not_modelled, laid.note))


@styled
def compare_timelines(
    a: Trace | Run, b: Trace | Run, names: Sequence[str] = ("a", "b"), figure: Picture | None = None
) -> Picture:
    """Draw two traces one above the other on one time axis, such as naive and bucketed data parallel.

    Raises ValueError when one is measured and the other modelled: their times do not compare.
    """
    (a, left_out), (b, left_out_b) = trace_of(a), trace_of(b)
    if len(listing_("compare_timelines", "names", names, "two names")) != 2:
        raise ValueError(f"compare_timelines wants names as two names; got {names!r}")
    if a.clock != b.clock:
        raise ValueError(
            f"two timelines on one axis want one clock, got {a.clock} ({names[0]}) and {b.clock} ({names[1]})"
        )
    end = max(event.stop for trace in (a, b) for event in trace)
    both = _fitting([a, b], end, _inches(figure) - FURNITURE - TITLE)
    wanted = [_height(laid) for laid in both]
    figure = canvas(figure, (9, FURNITURE + TITLE + sum(wanted)))
    room = (figure.get_figheight() - FURNITURE - TITLE) / sum(wanted)
    rows = figure.subplots(2, sharex=True, height_ratios=wanted)
    for axes, laid, inches, trace, name in zip(rows, both, wanted, (a, b), names, strict=True):
        _draw(axes, laid, end, inches * room)
        axes.set_title(textwrap.fill(f"{name}: {_title(trace)}", LINE), loc="left")
    rows[0].set_xlabel("")
    kinds = [kind for kind in KIND_STYLE if any(kind in laid.kinds for laid in both)]
    _legend(figure, kinds)
    left_out = tuple(dict.fromkeys(left_out + left_out_b))
    sentence = f"{names[0]}: {describe_timeline(a)} {names[1]}: {describe_timeline(b)}"
    return finish(figure, sentence, caption(a.hardware, a.clock, left_out, both[0].note or both[1].note))


def beside(ours: Run, torchs: Run, figure: Picture | None = None) -> Picture:
    """Draw a run of ours above torch's own of the same work, on one clock; each says what a rank hands over.

    Raises ValueError when one is measured and the other modelled: their times do not compare.
    """
    named = {"ours": ours, "torch's": torchs}
    names = [f"{name}, {say_handed_over(run)}" for name, run in named.items()]
    return compare_timelines(ours, torchs, names, figure)


def say_handed_over(run: Run) -> str:
    """Bytes that a rank hands over, the mean of ranks: "all_reduce 1,024 and broadcast 512 bytes a rank"."""
    handed: dict[str, float] = {}
    for (op, _), nbytes in report(run).handed_over.items():
        handed[op] = handed.get(op, 0.0) + nbytes
    said = [f"{op} {nbytes:,.0f}" for op, nbytes in sorted(handed.items()) if nbytes]
    return f"{listing(said)} bytes a rank" if said else "nothing handed over"


def describe_timeline(trace: Trace) -> str:
    """Say what a timeline shows. Measured times differ from run to run, so only modelled ones are named."""
    laid = lanes_of(trace)
    ops = listing(sorted({event.op for event in trace if event.stream == "comm"})) or "no communication"
    ranks = sorted({event.rank for event in trace})
    text = f"Timeline of {count(len(ranks), 'rank')}, {CLOCKS[trace.clock]}, with {ops}"
    if trace.clock == "wall":
        return text + "."
    if not computes(trace):
        return text + "; computing was not recorded."
    idle = {rank: idle_seconds(trace, rank) for rank in ranks}
    most = max(ranks, key=lambda rank: (idle[rank], -rank))
    text += f": {say_seconds(laid.seconds)} in all"
    if idle[most] == 0:
        return text + "; every rank computes all the time."
    share = idle[most] / laid.seconds
    return text + f"; rank {most} computes nothing for {say_seconds(idle[most])} of it ({share:.0%})."


def trace_of(trace_or_run: Trace | Run) -> tuple[Trace, tuple[str, ...]]:
    """A trace with an event or more, and what its clock leaves out, if its Run says so."""
    run = trace_or_run if isinstance(trace_or_run, Run) else None
    trace = instance("a timeline", "trace", run.trace if run else trace_or_run, Trace, "give run, or run.trace")
    if not len(trace):
        raise ValueError("a timeline wants a trace of one event or more; got an empty one")
    return trace, run.not_modelled if run else ()


def _title(trace: Trace) -> str:
    ranks = len({event.rank for event in trace})
    seconds = max(event.stop for event in trace)
    return f"{count(ranks, 'rank')}, {say_seconds(seconds)} {CLOCKS[trace.clock]}"


def _height(laid: Lanes) -> float:
    """Inches that the rows of a timeline would like to have."""
    return max(1.2, 0.34 * _rows(laid))


def _rows(laid: Lanes) -> float:
    """How many rows high a timeline is, with the gaps between ranks."""
    return len(laid.lanes) + 0.35 * len(laid.ranks)


def _inches(figure: Picture | None) -> float:
    return getattr(figure, "height", None) or SCREEN


def _fitting(traces: Sequence[Trace], end: float, inches: float) -> list[Lanes]:
    """Lay traces out one above the other, thinning out their ranks until the rows can be read."""
    for ranks in (MAX_RANKS, MAX_RANKS // 2, MAX_RANKS // 4):
        laid = [lanes_of(trace, end, ranks) for trace in traces]
        if sum(map(_rows, laid)) * LEAST <= 72 * inches:
            break
    return laid


def _draw(axes: Axes, laid: Lanes, end: float, inches: float) -> None:
    """Draw the lanes into axes of about so many inches: their letters are as large as the rows allow."""
    row = 72 * inches / _rows(laid)  # points
    letters = max(6.0, min(11.0, row - 1.5))
    unit, unit_name = time_unit(end)
    y, ticks, labels = 0.0, [], []
    for before, lane in zip([None, *laid.lanes], laid.lanes, strict=False):
        if before is not None:
            y += 1.35 if before.rank != lane.rank else 1.0
        _draw_lane(axes, lane, y, unit, end, max(5.0, min(9.5, 0.84 * row - 2.5)))
        ticks.append(y)
        labels.append(f"rank {lane.rank} {lane.stream}" if before is None or before.rank != lane.rank else lane.stream)
    axes.set_yticks(ticks, labels, fontsize=letters)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y + 0.6, -0.6)  # rank 0 on top
    axes.set_xlim(0, end / unit)
    axes.set_xlabel(f"time ({unit_name})")
    axes.spines["left"].set_visible(False)


def _draw_lane(axes: Axes, lane: Lane, y: float, unit: float, end: float, letters: float) -> None:
    for kind, (colour, hatch) in KIND_STYLE.items():
        spans = [span for span in lane.spans if span.kind == kind]
        if spans:
            # the outline of a short bar would look like a gap beside it
            edges = [_edge(kind) if span.seconds > SHORT * end else colour for span in spans]
            axes.broken_barh(
                [(span.start / unit, span.seconds / unit) for span in spans], (y - 0.42, 0.84),
                facecolor=colour, hatch=hatch, edgecolor=edges, linewidth=0.5, label=f"rank {lane.rank} {kind}",
            )  # fmt: skip
    for span in lane.spans:
        if label := _label(span, end, letters):
            box = {"facecolor": KIND_STYLE[span.kind][0], "edgecolor": "none", "pad": 0.1 * letters}
            axes.text(
                (span.start + span.seconds / 2) / unit, y, label, ha="center", va="center_baseline",
                fontsize=letters, color=text_on(KIND_STYLE[span.kind][0]), bbox=box, clip_on=True,
            )  # fmt: skip


def _label(span: Span, end: float, letters: float) -> str:
    """What fits on a bar: its label, or of one such as F0@3 its first part. 115 letters of 9.5 points fit the axis."""
    room = span.seconds / end * 115 * 9.5 / letters - 1.4
    return next((label for label in (span.label, span.label.partition("@")[0]) if 0 < len(label) < room), "")


def _edge(kind: str) -> str:
    return "#9A9A9A" if kind == "idle" else edge_on(KIND_STYLE[kind][0])


def _legend(figure: Picture, kinds: list[str]) -> None:
    handles = [
        Patch(facecolor=KIND_STYLE[k][0], hatch=KIND_STYLE[k][1], edgecolor=_edge(k), label=KIND_WORDS[k])
        for k in kinds
    ]
    narrow = {"fontsize": 11, "handlelength": 2, "columnspacing": 1.6}  # five kinds fit the width
    figure.legend(handles=handles, loc="outside upper left", ncols=len(kinds) if len(kinds) < 6 else 3, **narrow)
