"""Every axis a slider: what a layout of one small model costs on simulated ranks, in time, bytes and memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ipywidgets as W
import torch

from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Run
from llmlab.model import Config, Transformer
from llmlab.optim import SGD
from llmlab.parallel.compose import parallelize
from llmlab.parallel.layout import Layout
from llmlab.parallel.schedules import NAMES as SCHEDULES
from llmlab.plot import explore, timeline
from llmlab.plot.picture import Picture
from llmlab.plot.predictions import refusal
from llmlab.plot.style import say_memory, say_seconds
from llmlab.widgets.sliders import choice

SMALL = Config(vocab_size=256, d_model=64, n_layer=4, n_head=4, max_seq=64)
BATCH, SEQ = 16, 64
DEGREES = [1, 2, 4]


@dataclass(frozen=True)
class Laid:
    """Two steps of a layout on simulated ranks; `run` is None for an illegal layout, and `why` says why."""

    layout: Layout | None
    run: Run | None
    why: str = ""

    @property
    def seconds(self) -> float:
        """Of the slowest rank's step, modelled."""
        assert self.run is not None
        return max(self.run.results)


def layout_explorer() -> W.VBox:
    """Explore the layouts of a small model on up to 16 simulated ranks: a slider per axis, the timeline of a step."""

    def draw(figure: Picture, **chosen: Any) -> None:
        draw_layout(lay_out(**chosen), lay_out(), figure=figure)

    return explore(
        draw,
        dp=choice("data (dp)", DEGREES, 2),
        tp=choice("tensor (tp)", DEGREES, 1),
        pp=choice("pipeline (pp)", DEGREES, 2),
        cp=choice("context (cp)", [1, 2], 1),
        zero=choice("ZeRO stage", [0, 1, 2, 3], 0),
        microbatches=choice("microbatches", [1, 2, 4, 8], 4),
        schedule=choice("schedule", list(SCHEDULES), "1f1b"),
        sequence_parallel=choice("sequence parallel", [False, True], False),
    )


@cache
def lay_out(**chosen: Any) -> Laid:
    """Run two steps of this layout on meta tensors: their cost without their numbers, which is always the same."""
    try:
        layout = Layout(**chosen)
        layout.check(SMALL, BATCH, SEQ, min(layout.ranks, 16))
    except ValueError as illegal:
        return Laid(None, None, str(illegal))
    alike = ("dp", "tp")  # one rank stands for those that differ only there: a slider should not wait
    return Laid(layout, Simulator(layout.ranks, numerics=False, fold=alike).run(second_step, layout))


def second_step(world: Any, layout: Layout) -> float:
    """Seconds of the second step; the first one also makes the optimizer's state."""
    step = parallelize(Transformer(SMALL), lambda parameters: SGD(parameters, lr=0.1, momentum=0.9), layout, world)
    tokens = torch.zeros(BATCH, SEQ, dtype=torch.long)
    float(step(tokens, tokens))  # float() waits for the value, so the host's clock stands where the device's does
    start = world.clock()
    float(step(tokens, tokens))
    return world.clock() - start


def draw_layout(laid: Laid, alone: Laid, figure: Picture | None = None) -> Picture:
    """Draw the timeline of a layout's steps, with what it costs beside one process; or why it is no layout."""
    if laid.run is None:
        return refusal(laid.why, figure=figure)
    figure = timeline(laid.run, figure=figure)
    figure.alt = describe_layout(laid, alone)
    return figure


def describe_layout(laid: Laid, alone: Laid) -> str:
    """Say a step's time, speed-up, bytes by axis and memory, all modelled."""
    run = laid.run
    assert run is not None
    axes = sorted({event.axis for event in run.trace if event.axis and event.axis != "world"})
    sent = {axis: run.trace.comm_bytes(0, axis=axis) for axis in axes}
    parts = ", ".join(f"{say_memory(n)} along {axis}" for axis, n in sent.items() if n > 64) or "nothing"
    memory = max(held.total for held in run.memory)
    return (
        f"{run.ranks} ranks, modelled: a step takes {say_seconds(laid.seconds)}, one rank takes "
        f"{say_seconds(alone.seconds)}. In two steps rank 0 hands over {parts}. "
        f"The fullest rank holds {say_memory(memory)}. A row stands for all ranks that do the same."
    )
