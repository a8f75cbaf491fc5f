"""Where a mode begins to pay: what it computes against what it waits for, by size; and all modes beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from matplotlib.axes import Axes

from llmlab.arguments import instance, string, table
from llmlab.cost.thresholds import Threshold
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import (
    CLOCK_LINE,
    DOTTED,
    GREY,
    LINE_COLOURS,
    MARKERS,
    PALE,
    caption,
    line_style,
    say_seconds,
    three_digits,
)

DECADES, POINTS = 1.5, 61  # to each side of the threshold
NOT_COUNTED = ("latency", "launches", "other kernels")  # short: a caption is one line


@styled
def threshold(limit: Threshold, *, hardware: str = "", figure: Picture | None = None) -> Picture:
    """Draw computing and what stands against it, crossing at the threshold; grey where the mode does not pay."""
    instance("threshold", "limit", limit, Threshold, "llmlab.cost.thresholds.threshold('data')")
    string("threshold", "hardware", hardware)
    figure = canvas(figure, (9, 4.6))
    axes = figure.subplots()
    middle = limit.least if isfinite(limit.least) else 100.0
    sizes = [middle * 10 ** (DECADES * (2 * i / (POINTS - 1) - 1)) for i in range(POINTS)]
    for i, (name, seconds) in enumerate((("computing", limit.computing), (limit.obstacle, limit.against))):
        axes.plot(
            sizes, [seconds(x) for x in sizes], linestyle=CLOCK_LINE["virtual"], linewidth=2.4, markevery=(5, 10),
            label=f"{name}: modelled", **line_style(i),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    _mark(axes, limit, sizes)
    axes.set_xlabel(limit.size)
    axes.set_ylabel("time")
    axes.xaxis.set_major_formatter(lambda value, _: three_digits(value))
    axes.yaxis.set_major_formatter(lambda value, _: say_seconds(value))
    axes.grid()
    axes.legend(loc="lower right")
    return finish(figure, describe_threshold(limit), caption(hardware, "virtual", NOT_COUNTED))


def describe_threshold(limit: Threshold) -> str:
    """Say from which size on the mode pays, and what both times are a tenfold to either side of it."""
    pays = "hides its messages" if limit.hides else "computes longer than it waits"
    if not isfinite(limit.least):
        return f"Modelled: {limit.mode} at no size {pays}. Time of {limit.work}."
    said = [
        f"at {three_digits(x)} computing takes {say_seconds(limit.computing(x))} and {limit.obstacle} "
        f"{say_seconds(limit.against(x))}"
        for x in (limit.least / 10, limit.least * 10)
    ]
    return (
        f"Modelled: {limit.mode} {pays} from {three_digits(limit.least)} {limit.size} on. "
        f"Time of {limit.work}: {', '.join(said)}."
    )


@styled
def thresholds(
    have: Mapping[str, float], limits: Mapping[str, Mapping[str, Threshold]], *, hardware: str = "",
    figure: Picture | None = None,
) -> Picture:  # fmt: skip
    """Draw how far the sizes you have lie above or below their thresholds: a row a mode, a marker a place.

    have: size by mode; limits: by place ("in one node"), then by mode. Grey where a mode does not pay.
    """
    table("thresholds", "have", have, "sizes by mode")
    for place, by_mode in table("thresholds", "limits", limits, "thresholds by place and mode").items():
        for mode in have:
            instance("thresholds", f"limits[{place!r}][{mode!r}]", by_mode.get(mode), Threshold)
    figure = canvas(figure, (9, 1.4 + 0.62 * len(have)))
    axes = figure.subplots()
    ratios = {place: [size / by_mode[mode].least for mode, size in have.items()] for place, by_mode in limits.items()}
    found = [ratio for row in ratios.values() for ratio in row if ratio]
    low, high = min([0.1, *found]) / 2, max([10.0, *found]) * 2
    for i, (place, row) in enumerate(ratios.items()):
        axes.plot(
            [max(ratio, low) for ratio in row], range(len(row)), linestyle="", color=LINE_COLOURS[i], marker=MARKERS[i],
            markersize=10, label=f"{place}: modelled", clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvspan(low, 1, color=PALE, zorder=0)
    axes.axvline(1, color=GREY, linewidth=1.5, linestyle=DOTTED)
    first = next(iter(limits.values()))
    axes.set_yticks(range(len(have)), [f"{first[m].mode}\n{three_digits(x)} {first[m].size}" for m, x in have.items()])
    axes.set_ylim(len(have) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: three_digits(value))
    axes.set_xlabel("size you have / least size that pays")
    axes.grid(axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(limits))
    return finish(figure, describe_thresholds(have, limits), caption(hardware, "virtual", NOT_COUNTED))


def describe_thresholds(have: Mapping[str, float], limits: Mapping[str, Mapping[str, Threshold]]) -> str:
    """Say by place which modes pay, with the size each has and the least that pays."""
    said = []
    for place, by_mode in limits.items():
        words = {True: "pays", False: "does not"}
        rows = [
            f"{by_mode[mode].mode} {words[size >= by_mode[mode].least]} "
            f"({three_digits(size)} of {_least(by_mode[mode])} {by_mode[mode].size})"
            for mode, size in have.items()
        ]
        said.append(f"{place}: {', '.join(rows)}")
    return f"Modelled: {'. '.join(said)}."


def _least(limit: Threshold) -> str:
    return three_digits(limit.least) if isfinite(limit.least) else "no number of"


def _mark(axes: Axes, limit: Threshold, sizes: list[float]) -> None:
    """Grey up to the threshold, with its number above the axes, where no line runs."""
    axes.set_xlim(sizes[0], sizes[-1])
    if not isfinite(limit.least):
        axes.axvspan(sizes[0], sizes[-1], color=PALE, zorder=0)
        axes.set_title("no size is enough", loc="center")
        return
    axes.axvspan(sizes[0], limit.least, color=PALE, zorder=0)
    axes.axvline(limit.least, color=GREY, linewidth=1.5, linestyle=DOTTED)
    axes.set_title(f"{three_digits(limit.least)} {limit.size}", loc="center")
