"""What does each stage of ZeRO leave on a rank? Sliders on the bars of the paper's figure 1."""

from __future__ import annotations

import ipywidgets as W

from llmlab.cost.modes.zero import model_states, wire_bytes
from llmlab.hardware import cluster
from llmlab.plot import Picture, explore
from llmlab.plot.stacks import describe_bars, memory_bars
from llmlab.plot.style import say_memory
from llmlab.widgets.models import MODELS
from llmlab.widgets.sliders import choice

STAGES = {0: "data parallel", 1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3"}
SIZES = {"7.5B": 7.5e9, **{name: config.n_param for name, config in MODELS.items()}}  # the first is the paper's
OPTIMIZERS = {"SGD": 4, "momentum": 8, "Adam": 12}  # bytes a weight, the weights' copy in fp32 included
NOTE = "Calculated: model states only, weights and gradients in 16 bits. Activations and buffers come on top."


def zero_explorer(model: str = "7.5B", ranks: int = 64, optimizer: str = "Adam", device: str = "h100") -> W.VBox:
    """Explore what a model's states take on each rank under no sharding and the three stages of ZeRO."""
    capacity = cluster(device).device.memory_bytes

    def draw(figure: Picture, model: str, ranks: int, optimizer: str) -> None:
        memory_bars(kept(model, ranks, optimizer), capacity, NOTE, figure=figure)
        figure.alt = describe(model, ranks, optimizer, capacity)

    return explore(
        draw,
        model=choice("model", list(SIZES), model),
        ranks=choice("ranks", [2**k for k in range(11)], ranks),
        optimizer=choice("optimizer", list(OPTIMIZERS), optimizer),
    )


def kept(model: str, ranks: int, optimizer: str) -> dict[str, dict[str, float]]:
    """Bytes of each stage on one rank, by category."""
    n_param = SIZES[model]
    return {
        name: model_states(n_param, ranks, stage, optimizer=OPTIMIZERS[optimizer]) for stage, name in STAGES.items()
    }


def describe(model: str, ranks: int, optimizer: str, capacity: float) -> str:
    """Say what the bars show, and what each stage has to send for it."""
    sent = [wire_bytes(SIZES[model], ranks, stage, 2) for stage in (0, 3)]
    return (
        f"A {model} model with {optimizer} on {ranks} ranks. {describe_bars(kept(model, ranks, optimizer), capacity)} "
        f"A rank sends {say_memory(sent[0])} a step, under ZeRO-3 {say_memory(sent[1])}."
    )
