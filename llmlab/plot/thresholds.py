"""Where a mode begins to pay: what it computes against what it waits for, by size."""

from __future__ import annotations

from math import isfinite

from matplotlib.axes import Axes

from llmlab.arguments import instance, string
from llmlab.cost.thresholds import Threshold
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import CLOCK_LINE, DOTTED, GREY, PALE, caption, line_style, say_seconds, three_digits

DECADES, POINTS = 1.5, 61  # to each side of the threshold
NOT_COUNTED = ("latency", "launches", "element-wise kernels")


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
