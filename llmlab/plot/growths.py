"""Where the time of a step goes as GPUs are added: a bar for each count, cut by cause."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.ticker import PercentFormatter

from llmlab.arguments import instances, table
from llmlab.cost import Prediction
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.predictions import by_cause
from llmlab.plot.style import caption, fill_style


@styled
def growth(
    curve: Mapping[int, Prediction], *, hardware: str = "", note: str = "", figure: Picture | None = None
) -> Picture:
    """Draw {GPUs: prediction}, as `cost.growing.grow` gives it: of each step the shares of what it is spent on."""
    instances("growth", "curve", table("growth", "curve", curve, "{GPUs: prediction}").values(), Prediction)
    counts = sorted(curve)
    shares = [{cause: seconds / curve[n].seconds for cause, seconds in by_cause(curve[n]).items()} for n in counts]
    figure = canvas(figure, (9, 4.4))
    axes = figure.subplots()
    bottom = [0.0] * len(counts)
    for i, cause in enumerate(shares[0]):
        heights = [share[cause] for share in shares]
        if any(heights):
            axes.bar(range(len(counts)), heights, 0.8, bottom=bottom, label=cause, **fill_style(i))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(range(len(counts)), [f"{n:,}" for n in counts])
    axes.set_xlabel("GPUs")
    axes.set_ylabel("share of a step")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside upper left", ncols=5, fontsize=11, handlelength=1.6, columnspacing=1.2)
    return finish(figure, describe_growth(curve), caption(hardware, "virtual", note=note))


def describe_growth(curve: Mapping[int, Prediction]) -> str:
    """Say what takes most beside computing on the fewest and on the most GPUs."""
    said = []
    for n in (min(curve), max(curve)):
        others = {cause: seconds for cause, seconds in by_cause(curve[n]).items() if cause != "computing"}
        said.append(f"{max(others, key=lambda cause: others[cause])} on {n:,} GPUs")
    return f"What a step is spent on, modelled. Beside computing most goes to {said[0]}, and to {said[1]}."
