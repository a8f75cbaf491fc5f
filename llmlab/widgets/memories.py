"""What fills one GPU's memory, and what recomputation leaves of it? Sliders on the bars of a training step."""

from __future__ import annotations

from dataclasses import replace

import ipywidgets as W

from llmlab.cost import Prediction, predict
from llmlab.cost.prediction import RECOMPUTE
from llmlab.cost.stack import stack
from llmlab.parallel.layout import Layout
from llmlab.plot import Picture, explore
from llmlab.plot.predictions import NAMES
from llmlab.plot.stacks import describe_bars, memory_bars
from llmlab.plot.style import say_memory
from llmlab.widgets.models import MODELS
from llmlab.widgets.sliders import choice

ATTENTION = {"fused": True, "written out": False}
BARS = {"none": "no recomputation", "selective": "selective", "full": "full"}
NOTE = "Calculated, 16-bit mixed precision with Adam. Working: the layer being computed again, and the logits."


def memory_explorer(
    model: str = "1.3B",
    sequences: int = 8,
    seq: int = 2048,
    gpus: int = 1,
    attention: str = "fused",
    device: str = "h100",
) -> W.VBox:
    """Explore one GPU's memory under no, selective and full recomputation: model, microbatch, length, GPUs, attention.

    More GPUs share the model states out, as ZeRO-3 does; each has its own sequences.
    """

    def draw(figure: Picture, model: str, sequences: int, seq: int, gpus: int, attention: str) -> None:
        found = {what: memory_of(model, sequences, seq, gpus, attention, what, device) for what in RECOMPUTE}
        bars = {BARS[what]: by_category(p) for what, p in found.items()}
        capacity = found["none"].capacity_bytes
        memory_bars(bars, capacity, NOTE, figure=figure)
        figure.alt = describe(found, model, sequences, seq, gpus) + " " + describe_bars(bars, capacity)

    return explore(
        draw,
        model=choice("model", list(MODELS), model),
        sequences=choice("sequences", [2**k for k in range(8)], sequences),
        seq=choice("tokens a sequence", [2**k for k in range(9, 18)], seq),
        gpus=choice("GPUs (ZeRO-3)", [2**k for k in range(11)], gpus),
        attention=choice("attention", list(ATTENTION), attention),
    )


def memory_of(
    model: str, sequences: int, seq: int, gpus: int, attention: str, recompute: str, device: str = "h100"
) -> Prediction:
    """Predict a step of one microbatch on each of so many GPUs."""
    layout = Layout(dp=gpus, zero=3 if gpus > 1 else 0)
    software = replace(stack("ideal"), fused_attention=ATTENTION[attention])
    return predict(
        MODELS[model], layout, device, global_batch=gpus * sequences, seq=seq, recompute=recompute, stack=software
    )  # fmt: skip


def by_category(p: Prediction) -> dict[str, float]:
    """Bytes under the words that the simulator's memory has."""
    return {NAMES.get(category, category): nbytes for category, nbytes in p.memory.items()}


def describe(found: dict[str, Prediction], model: str, sequences: int, seq: int, gpus: int) -> str:
    """Say the step, and what full recomputation saves and costs."""
    none, full = found["none"], found["full"]
    kept = [say_memory(p.memory["activations"] + p.memory["working"]) for p in (none, full)]
    where = "one GPU" if gpus == 1 else f"each of {gpus} GPUs"
    return (
        f"A {model} model, {sequences} x {seq:,} tokens on {where}. Full recomputation: {kept[0]} of activations and "
        f"working memory become {kept[1]}, for {full.hardware_flops / none.hardware_flops - 1:.0%} more FLOPs."
    )
