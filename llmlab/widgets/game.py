"""A game: lay a 175-billion-parameter model out on 64 GPUs. Does it fit, how fast is it, and what does it cost?"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill

import ipywidgets as W
from matplotlib.axes import Axes

from llmlab.cost import Prediction, predict
from llmlab.parallel.layout import Layout
from llmlab.plot import explore
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLACK, caption, fill_style, memory_unit, say_memory
from llmlab.widgets.models import MODELS, SEQ
from llmlab.widgets.sliders import choice

MODEL, GPUS, BATCH = "175B", 64, 256  # sequences in a step: divides over any power of two of GPUs
DEGREES = [1, 2, 4, 8, 16, 32, 64]
# The predictor's causes, gathered under what a player can do something about.
CAUSES = {
    "computing": ("matmul", "attention", "elementwise", "logits", "optimizer", "recompute", "host"),
    "tensor traffic": ("tensor_parallel",),
    "pipeline bubble": ("bubble", "pipeline_messages"),
    "data traffic": ("data_parallel",),
}
NAMES = {"optimizer": "optimizer state"}  # as the simulator's memory has it


@dataclass(frozen=True)
class Move:
    """What a layout comes to. `prediction` is None for a layout that is no layout, and `why` says why."""

    layout: Layout | None
    prediction: Prediction | None
    why: str
    price: float

    @property
    def score(self) -> int:
        """A thousand times the share of the GPUs' peak that trains the model; nothing if it does not fit."""
        return round(1000 * self.prediction.mfu) if self.prediction and self.prediction.fits else 0

    @property
    def cost(self) -> float:
        """Dollars per billion tokens."""
        assert self.prediction is not None
        return self.prediction.gpu_hours(1e9) * self.price

    @property
    def code(self) -> str:
        """The layout and its score in a word, to compare in class: whoever sets the same sliders sees the same."""
        x = self.layout
        return f"d{x.dp}t{x.tp}p{x.pp}z{x.zero}-{self.score}" if x else "none"


def layout_game(price: float = 2.5, device: str = "a100") -> W.VBox:
    """Play: sliders for data, tensor and pipeline parallelism and ZeRO. price: dollars per GPU-hour."""
    best = {"move": Move(None, None, "", price)}

    def draw(figure: Picture, dp: int, tp: int, pp: int, zero: int) -> None:
        move = play(dp, tp, pp, zero, price, device)
        best["move"] = max(best["move"], move, key=lambda m: m.score)
        draw_move(move, device, figure)
        if best["move"].score:
            figure.alt += f" Your best so far: {best['move'].code}."

    return explore(
        draw,
        dp=choice("data (dp)", DEGREES, 64),
        tp=choice("tensor (tp)", DEGREES, 1),
        pp=choice("pipeline (pp)", DEGREES, 1),
        zero=choice("ZeRO stage", [0, 1, 2, 3], 0),
    )


def play(dp: int, tp: int, pp: int, zero: int, price: float = 2.5, device: str = "a100") -> Move:
    """Predict one step of the layout, a sequence at a time."""
    try:
        layout = Layout(dp=dp, tp=tp, pp=pp, zero=zero, sequence_parallel=tp > 1, microbatches=max(1, BATCH // dp))
        layout.check(MODELS[MODEL], BATCH, SEQ, GPUS)
    except ValueError as illegal:
        return Move(None, None, str(illegal), price)
    return Move(layout, predict(MODELS[MODEL], layout, device, global_batch=BATCH, seq=SEQ), "", price)


@styled
def draw_move(move: Move, device: str = "a100", figure: Picture | None = None) -> Picture:
    """Draw what one GPU must hold against what it holds, and where a step's time goes."""
    figure = canvas(figure, (9, 3.9))
    if move.prediction is None:
        axes = figure.subplots()
        axes.axis("off")
        figure.suptitle("not a layout", fontsize=16)
        axes.text(0.5, 0.5, fill(move.why, 80), ha="center", va="center", fontsize=13)
    else:
        memory, time = figure.subplots(2)
        figure.suptitle(_verdict(move), fontsize=16)
        _memory_bar(memory, move.prediction)
        _time_bar(time, move.prediction)
    note = f"{MODEL} parameters, {GPUS} GPUs, {BATCH} x {SEQ} tokens a step."
    return finish(figure, describe_move(move), caption(f"{device} cluster", "virtual", note=note))


def describe_move(move: Move) -> str:
    """Say whether it fits, and its score, or why it is no layout."""
    p = move.prediction
    if p is None:
        return f"Not a layout: {move.why}."
    fits = "it fits" if p.fits else "it does not fit"
    text = f"One GPU needs {say_memory(p.memory_bytes)} of {say_memory(p.capacity_bytes)}: {fits}."
    if not p.fits:
        return f"{text} Score 0, code {move.code}."
    return (
        f"{text} MFU {p.mfu:.1%}, {p.tokens_per_s:,.0f} tokens a second; a billion tokens cost ${move.cost:,.0f} at "
        f"${move.price:.2f} per GPU-hour. Score {move.score}, code {move.code}."
    )


def _verdict(move: Move) -> str:
    if not move.score:
        return "does not fit: score 0"
    return f"fits: score {move.score}, a billion tokens for ${move.cost:,.0f}"


def _memory_bar(axes: Axes, p: Prediction) -> None:
    unit, name = memory_unit(max(p.memory_bytes, p.capacity_bytes))
    parts = {NAMES.get(category, category): nbytes / unit for category, nbytes in p.memory.items()}
    _stack(axes, parts)
    axes.axvline(p.capacity_bytes / unit, color=BLACK, linestyle="-.", linewidth=2.5)
    axes.set_title(f"memory of one GPU ({name}); the line is what it holds", loc="left")


def _time_bar(axes: Axes, p: Prediction) -> None:
    parts = {word: sum(p.breakdown[cause] for cause in causes) for word, causes in CAUSES.items()}
    _stack(axes, parts)
    axes.set_title("time of a step (s)", loc="left")


def _stack(axes: Axes, parts: dict[str, float]) -> None:
    left = 0.0
    for i, (name, length) in enumerate(parts.items()):
        if length > 0:
            axes.barh(0, length, 0.6, left=left, label=name, **fill_style(i))
            left += length
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.25), ncols=6, fontsize=10, handlelength=1.6, columnspacing=1.2)
