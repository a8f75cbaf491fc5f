"""What a predicted step takes: memory by category against what a GPU holds, and time by cause."""

from __future__ import annotations

from textwrap import fill as wrapped
from typing import Any

from matplotlib.axes import Axes

from llmlab.arguments import instance, string
from llmlab.cost import Prediction
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import (
    BLACK,
    GREY,
    PALE,
    VERMILION,
    caption,
    fill,
    fill_style,
    listing,
    memory_unit,
    say_memory,
    say_seconds,
)  # fmt: skip

# The predictor's terms, gathered under what a user can do something about.
CAUSES = {
    "computing": ("matmul", "attention", "elementwise", "logits", "optimizer", "recompute", "host"),
    "tensor traffic": ("tensor_parallel",),
    "context and expert traffic": ("context_parallel", "expert_parallel"),
    "pipeline bubble": ("bubble", "pipeline_messages"),
    "data traffic": ("data_parallel",),
}
# Grey computes, pale waits, and traffic is red, its hatch says which: no colour stands for a part of the memory, too.
CAUSE_FILLS = {
    "computing": (GREY, ""),
    "tensor traffic": (VERMILION, "//"),
    "context and expert traffic": (VERMILION, "xx"),
    "pipeline bubble": (PALE, ".."),
    "data traffic": (VERMILION, "--"),
}
# The predictor's words, as the simulator's memory and a reader have them.
NAMES = {"optimizer": "optimizer state", "working": "scratch", "runtime": "libraries"}


def by_cause(p: Prediction) -> dict[str, float]:
    """Seconds of a step under the words of CAUSES."""
    return {word: sum(p.breakdown.get(term, 0.0) for term in terms) for word, terms in CAUSES.items()}


@styled
def prediction(
    p: Prediction, title: str, *, hardware: str = "", note: str = "", figure: Picture | None = None
) -> Picture:
    """Draw one predicted step as two bars, of memory and of time."""
    instance("prediction", "p", p, Prediction, "what lab.predict(...) gives for one layout")
    figure = canvas(figure, (9, 3.9))
    memory, time = figure.subplots(2)
    figure.suptitle(title, fontsize=16)
    unit, name = memory_unit(max(p.memory_bytes, p.capacity_bytes))
    parts = {NAMES.get(category, category): nbytes / unit for category, nbytes in p.memory.items()}
    _stack(memory, parts, [fill_style(i) for i in range(len(parts))])
    memory.axvline(p.capacity_bytes / unit, color=BLACK, linestyle="-.", linewidth=2.5)
    memory.set_title(f"memory of one GPU ({name}); the line is what it holds", loc="left")
    _stack(time, by_cause(p), [fill(*CAUSE_FILLS[word]) for word in CAUSES])
    time.set_title("time of a step (s)", loc="left")
    return finish(figure, describe_prediction(p), caption(hardware, "virtual", note=note, width=104))


def describe_prediction(p: Prediction) -> str:
    """Say what a step takes, of what, and whether it fits."""
    parts = {word: seconds for word, seconds in by_cause(p).items() if seconds >= 0.005 * p.seconds}
    said = listing([f"{word} {seconds / p.seconds:.0%}" for word, seconds in parts.items()])
    low, high = p.interval
    return (
        f"Modelled: a step takes {say_seconds(p.seconds)} ({say_seconds(low)} to {say_seconds(high)} in nine of ten "
        f"cases), {said}; MFU {p.mfu:.1%}. One GPU needs {say_memory(p.memory_bytes)} of "
        f"{say_memory(p.capacity_bytes)}: {'it fits' if p.verdict == 'fits' else p.verdict}."
    )


@styled
def refusal(why: str, *, below: str = "", figure: Picture | None = None) -> Picture:
    """Draw, instead of a figure, why there is none: this is no layout."""
    string("refusal", "why", why)
    figure = canvas(figure, (9, 3.9))
    axes = figure.subplots()
    axes.axis("off")
    figure.suptitle("not a layout", fontsize=16)
    axes.text(0.5, 0.5, wrapped(why, 80), ha="center", va="center", fontsize=13)
    return finish(figure, f"Not a layout: {why}.", below)


def _stack(axes: Axes, parts: dict[str, float], styles: list[dict[str, Any]]) -> None:
    left = 0.0
    for (name, length), style in zip(parts.items(), styles, strict=True):
        if length > 0:
            axes.barh(0, length, 0.6, left=left, label=name, **style)
            left += length
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.25), ncols=6, fontsize=10, handlelength=1.6, columnspacing=1.2)
