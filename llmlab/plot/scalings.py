"""Predicted scaling: tokens a second and efficiency against GPUs, with the interval in which measurements would lie."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from llmlab.arguments import instances, table
from llmlab.cost import Prediction
from llmlab.cost.growing import efficiency
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.predictions import by_cause
from llmlab.plot.style import CLOCK_LINE, DOTTED, GREY, caption, line_style, three_digits

Curves = Mapping[str, Mapping[int, Prediction]]  # name -> GPUs -> prediction


@styled
def scaling(curves: Curves, *, hardware: str = "", note: str = "", figure: Picture | None = None) -> Picture:
    """Draw {name: {GPUs: prediction}}, such as strong and weak scaling: dashed, since all of it is modelled.

    The pale band holds nine in ten measured steps; a cross marks layouts that do not fit.
    """
    for name, curve in table("scaling", "curves", curves, "{name: {GPUs: prediction}}").items():
        instances("scaling", name, table("scaling", name, curve, "{GPUs: prediction}").values(), Prediction)
    figure = canvas(figure, (9, 6.4))
    top, bottom = figure.subplots(2, sharex=True, height_ratios=[5, 2])
    counts = sorted({gpus for curve in curves.values() for gpus in curve})
    highest = max(next(iter(_by_gpus(curve).values())).tokens_per_s / min(curve) for curve in curves.values())
    top.plot(counts, [n * highest for n in counts], linestyle=DOTTED, color=GREY, linewidth=2, label="ideal")
    bottom.axhline(1, linestyle=DOTTED, color=GREY, linewidth=2)
    for i, (name, curve) in enumerate(curves.items()):
        _draw(top, bottom, f"{name}: modelled", _by_gpus(curve), i)
    large = [(n, p.tokens_per_s) for curve in curves.values() for n, p in curve.items() if not p.fits]
    if large:
        top.plot(*zip(*large, strict=True), "x", color="black", markersize=11, label="does not fit")
    _dress(top, bottom, counts)
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=11)
    return finish(figure, describe_scaling(curves), caption(hardware, "virtual", note=note))


def describe_scaling(curves: Curves) -> str:
    """Say of each curve how far it goes, what a GPU still does there, and what costs most beside computing."""
    return " ".join(_describe(name, _by_gpus(curve)) for name, curve in curves.items())


def _describe(name: str, curve: dict[int, Prediction]) -> str:
    most = max(curve)
    p = curve[most]
    others = {word: seconds for word, seconds in by_cause(p).items() if word != "computing"}
    worst = max(others, key=lambda word: others[word])
    text = (
        f"{name}, modelled: {three_digits(p.tokens_per_s)} tokens a second on {most:,} GPUs, "
        f"{efficiency(curve)[most]:.0%} of what a GPU does on {min(curve):,}"
    )
    text += f"; {worst} takes {others[worst] / p.seconds:.0%} of the step." if others[worst] > 0 else "."
    return text if p.fits else f"{text} It does not fit there."


def _by_gpus(curve: Mapping[int, Prediction]) -> dict[int, Prediction]:
    return {gpus: curve[gpus] for gpus in sorted(curve)}


def _draw(top: Axes, bottom: Axes, label: str, curve: dict[int, Prediction], i: int) -> None:
    counts, style = list(curve), line_style(i)
    line = {"linestyle": CLOCK_LINE["virtual"], "linewidth": 2.2, **style}
    rates = [p.tokens_per_s for p in curve.values()]
    slow, fast = ([p.tokens / p.interval[end] for p in curve.values()] for end in (1, 0))
    top.plot(counts, rates, label=label, **line)
    top.fill_between(counts, slow, fast, color=style["color"], alpha=0.12, linewidth=0)
    bottom.plot(counts, list(efficiency(curve).values()), **line)


def _dress(top: Axes, bottom: Axes, counts: list[int]) -> None:
    top.set_xscale("log", base=2)
    top.set_yscale("log")
    top.set_ylabel("tokens a second")
    bottom.set_ylabel("efficiency")
    bottom.set_xlabel("GPUs")
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom.set_ylim(0, max(1.1, bottom.get_ylim()[1]))
    for axes in (top, bottom):
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(FixedLocator(counts[:: -(-len(counts) // 10)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
