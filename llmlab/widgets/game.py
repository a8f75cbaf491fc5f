"""A game: lay a 175-billion-parameter model out on 64 GPUs. Does it fit, how fast is it, and what does it cost?"""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets as W

from llmlab.cost import Prediction, predict
from llmlab.parallel.layout import Layout
from llmlab.plot import explore
from llmlab.plot.picture import Picture
from llmlab.plot.predictions import prediction, refusal
from llmlab.plot.style import caption, say_memory
from llmlab.widgets.models import MODELS, SEQ
from llmlab.widgets.sliders import choice

MODEL, GPUS, BATCH = "175B", 64, 256  # sequences in a step: divides over any power of two of GPUs
DEGREES = [1, 2, 4, 8, 16, 32, 64]


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
    """Play: sliders for tp, pp and ZeRO; dp takes the GPUs that are left. price: dollars per GPU-hour."""
    best = {"move": Move(None, None, "", price)}

    def draw(figure: Picture, tp: int, pp: int, zero: int) -> None:
        move = play(tp, pp, zero, price, device)
        best["move"] = max(best["move"], move, key=lambda m: m.score)
        draw_move(move, device, figure)
        if best["move"].score:
            figure.alt += f" Your best so far: {best['move'].code}."

    return explore(
        draw,
        tp=choice("tensor (tp)", DEGREES, 1),
        pp=choice("pipeline (pp)", DEGREES, 1),
        zero=choice("ZeRO stage", [0, 1, 2, 3], 0),
    )


def play(tp: int, pp: int, zero: int, price: float = 2.5, device: str = "a100") -> Move:
    """Predict one step, a sequence at a time, of the layout whose copies (dp) take the GPUs that tp and pp leave."""
    dp, rest = divmod(GPUS, tp * pp)
    if rest:
        why = f"tp {tp} x pp {pp} wants {tp * pp} GPUs, and there are {GPUS}: lower one of them"
        return Move(None, None, why, price)
    try:
        layout = Layout(dp=dp, tp=tp, pp=pp, zero=zero, sequence_parallel=tp > 1, microbatches=max(1, BATCH // dp))
        layout.check(MODELS[MODEL], BATCH, SEQ, GPUS)
    except ValueError as illegal:
        return Move(None, None, str(illegal), price)
    return Move(layout, predict(MODELS[MODEL], layout, device, global_batch=BATCH, seq=SEQ, stack="ideal"), "", price)


def draw_move(move: Move, device: str = "a100", figure: Picture | None = None) -> Picture:
    """Draw what one GPU must hold against what it holds, and where a step's time goes."""
    hardware, note = f"{device} cluster", f"{MODEL} in bf16, Adam in fp32; {GPUS} GPUs; {BATCH} x {SEQ} tokens a step."
    if move.prediction is None:
        figure = refusal(move.why, below=caption(hardware, "virtual", note=note), figure=figure)
    else:
        figure = prediction(move.prediction, _verdict(move), hardware=hardware, note=note, figure=figure)
    figure.alt = describe_move(move)
    return figure


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
    assert move.layout is not None
    layout = f"dp {move.layout.dp} x tp {move.layout.tp} x pp {move.layout.pp}"
    if not move.score:
        return f"{layout} does not fit: score 0"
    return f"{layout} fits: score {move.score}, a billion tokens for ${move.cost:,.0f}"
