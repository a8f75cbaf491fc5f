"""Timelines whose bars tell their story: under the pointer, or with the Tab key."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import ipywidgets as W

from llmlab.comm.trace import Run, Trace
from llmlab.plot import compare_timelines, timeline, timeline_svg
from llmlab.plot.picture import show_live, status
from llmlab.plot.svg import LINE, SCREEN


def timeline_hover(*runs: Run | Trace, names: Sequence[str] = (), play_s: float = 0.0) -> W.HTML:
    """Display one timeline, or two on one time axis; a bar tells its story in the line below.

    names: of the two. play_s: let the bars appear in so many seconds. Where no kernel runs, the picture and its
    sentence stand instead.
    """
    if not 1 <= len(runs) <= 2 or len(names) not in (0, len(runs)):
        raise ValueError(
            f"timeline_hover wants one run or two, with as many names, got {len(runs)} and {len(names)} names"
        )
    ends = None
    if len(runs) == 1:
        figure = timeline(runs[0])
    else:
        figure = compare_timelines(runs[0], runs[1], names or ("a", "b"))
        ends = max(event.stop for run in runs for event in (run.trace if isinstance(run, Run) else run))
    titles = [f"<b>{escape(name)}</b>" for name in names] or [""] * len(runs)
    height = SCREEN if len(runs) == 1 else SCREEN / 2 - LINE  # each has its name above it
    drawings = [title + timeline_svg(run, ends, play_s, height=height) for title, run in zip(titles, runs, strict=True)]
    live = W.HTML("".join(drawings) + status(figure.alt), layout=W.Layout(width="100%", margin="0"))
    show_live(live, figure, figure.alt)
    return live
