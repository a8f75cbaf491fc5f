"""Where the time went: a bar for each rank, or each run, cut by cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.arguments import instance, real, table
from llmlab.diagnosing import CAUSES
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLUE, ORANGE, PALE, PURPLE, SKY, caption, edge_on, listing, text_on

Shares = Mapping[str, Mapping[str, float]]  # name -> cause -> share of the time

# As on a timeline: blue computes, orange sends, pale is time in which nothing happens.
CAUSE_STYLE = dict(zip(CAUSES, ((BLUE, ""), (SKY, ""), (ORANGE, "//"), (PALE, ".."), (PURPLE, "xx")), strict=True))
ROOM = 0.06  # of the time: a label fits


@styled
def causes(
    shares: Shares, notes: Mapping[str, str] | None = None, hardware: str = "", figure: Picture | None = None
) -> Picture:
    """Draw {name: {cause: share of the time}} as bars from 0 to 100%: `TimeSpent.by_rank`, or `shares` of several runs.

    notes: what is written behind a bar, by name, such as its MFU.  hardware: whose clock it is.
    """
    for name, by_cause in table("causes", "shares", shares, "{name: {cause: share}}").items():
        for cause, share in table("causes", name, by_cause, "{cause: share}").items():
            real("causes", f"{name}'s {cause}", share, least=0)
    notes = {} if notes is None else instance("causes", "notes", notes, Mapping, "{name: note}")
    figure = canvas(figure, (9, 1.5 + 0.42 * len(shares)))
    axes = figure.subplots()
    left = dict.fromkeys(shares, 0.0)
    for cause, (colour, hatch) in CAUSE_STYLE.items():
        widths = [100 * by_cause.get(cause, 0.0) for by_cause in shares.values()]
        style: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "edgecolor": edge_on(colour), "linewidth": 0.6}
        if any(widths):
            axes.barh(range(len(shares)), widths, 0.74, left=list(left.values()), label=cause, **style)
        for y, (name, width) in enumerate(zip(shares, widths, strict=True)):
            if width >= 100 * ROOM:
                box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
                axes.text(
                    left[name] + width / 2, y, f"{width:.0f}%", ha="center", va="center_baseline", fontsize=10,
                    color=text_on(colour), bbox=box,
                )  # fmt: skip
            left[name] += width
    for y, name in enumerate(shares):
        axes.annotate(notes.get(name, ""), (100, y), (6, 0), textcoords="offset points", va="center", fontsize=11)
    axes.set_yticks(range(len(shares)), list(shares), fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shares) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 112 if any(notes.values()) else 100)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("share of the time (%)")
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=5, fontsize=11, handlelength=2, columnspacing=1.4)
    return finish(figure, describe_causes(shares, notes), caption(hardware, "virtual") if hardware else "")


def describe_causes(shares: Shares, notes: Mapping[str, str] | None = None) -> str:
    """Say each bar's shares, the small ones left out."""
    said = []
    for name, by_cause in shares.items():
        parts = [f"{share:.0%} {cause}" for cause, share in by_cause.items() if share >= ROOM]
        note = (notes or {}).get(name, "")
        said.append(f"{name}{f' ({note})' if note else ''}: {listing(parts)}")
    return f"Where the time went. {'; '.join(said)}."
