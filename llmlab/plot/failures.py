"""Time lost against how often a run saves: Young's and Daly's valley."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.ticker import LogLocator, NullFormatter

from llmlab.arguments import instance, real
from llmlab.cost.failures import daly, time_lost
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLACK, CLOCK_LINE, DOTTED, LINE_COLOURS, say_seconds

CAPTION = "Modelled: failures at any moment alike (Daly 2006); no machine was measured."
POINTS = 81
WIDTH = 30.0  # the curve reaches from the best interval by this to it times this


@styled
def checkpoint_interval(
    save_s: float, mtbf_s: float, restart_s: float = 0.0, lived: Mapping[float, float] | None = None,
    *, figure: Picture | None = None,
) -> Picture:  # fmt: skip
    """Draw the share of time lost by the seconds between two saves, and where it is least.

    lived: interval in seconds -> share lost in runs that were lived through: `cost.failures.draw_time_lost`, or yours.
    """
    real("checkpoint_interval", "save_s", save_s, above=0)
    instance("checkpoint_interval", "lived", lived or {}, Mapping, "{interval_s: share}")
    best = daly(save_s, mtbf_s)
    intervals = [best * WIDTH ** (2 * i / (POINTS - 1) - 1) for i in range(POINTS)]
    figure = canvas(figure, (9, 4.6))
    axes = figure.subplots()
    lost = [time_lost(each, save_s, mtbf_s, restart_s) for each in intervals]
    axes.plot(
        intervals,
        lost,
        linestyle=CLOCK_LINE["virtual"],
        linewidth=2.4,
        color=LINE_COLOURS[0],
        label="expected: modelled",
    )
    if lived:
        axes.plot(list(lived), list(lived.values()), "o", color=LINE_COLOURS[1], markersize=7, label="failures drawn")
    axes.axvline(best, color=BLACK, linestyle=DOTTED, label=f"least: {say_seconds(best)}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("work between two saves")
    axes.set_ylabel("time lost, of the work's")
    axes.xaxis.set_major_formatter(lambda value, _: say_seconds(value))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value >= 0.01 else f"{value:.2%}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid()
    axes.legend(loc="upper left")
    return finish(figure, describe_interval(save_s, mtbf_s, restart_s), CAPTION)


def describe_interval(save_s: float, mtbf_s: float, restart_s: float = 0.0) -> str:
    """Say how often to save, and what other intervals lose."""
    best = daly(save_s, mtbf_s)
    shares = [time_lost(each, save_s, mtbf_s, restart_s) for each in (best, best / 10, best * 10)]
    return (
        f"Modelled: with a save of {say_seconds(save_s)} and a failure every {say_seconds(mtbf_s)} the least is lost "
        f"with {say_seconds(best)} between two saves, {shares[0]:.1%} of the work; ten times as often loses "
        f"{shares[1]:.1%}, ten times as seldom {shares[2]:.1%}."
    )
