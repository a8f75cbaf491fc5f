"""What do more GPUs bring? Sliders on the predicted speed-up of data parallelism."""

from __future__ import annotations

from typing import Any

import ipywidgets as W

from llmlab.cost import Prediction, predict
from llmlab.hardware import Cluster, cluster
from llmlab.measuring import Table, tabulate_seconds
from llmlab.parallel.layout import Layout
from llmlab.plot import Picture, explore, speedup
from llmlab.plot.style import say_memory, say_seconds, three_digits
from llmlab.widgets.models import MODELS, SEQ
from llmlab.widgets.sliders import choice

# One link joins every GPU to every other, so that a slider changes one thing.
LINKS: dict[str, dict[str, Any]] = {
    "NVLink": {"devices_per_node": 1024},
    "InfiniBand": {"devices_per_node": 1},
    "10 Gb/s Ethernet": {"devices_per_node": 1, "inter": "ethernet-10g"},
    "Wi-Fi": {"devices_per_node": 1, "inter": "wifi"},
}
NOT_MODELLED = ("stragglers", "clock throttling", "switch congestion", "data loading")


def speedup_explorer(
    measured: Table | None = None,
    *,
    model: str = "7B",
    batch_per_gpu: int = 4,
    gpus: int = 64,
    link: str = "InfiniBand",
    device: str = "h100",
) -> W.VBox:
    """Explore the predicted speed-up of data parallelism: model, sequences per GPU, GPUs, and the link between them.

    measured: a weak-scaling table of your own, drawn solid beside the dashed prediction.
    """

    def draw(figure: Picture, model: str, batch_per_gpu: int, gpus: int, link: str) -> None:
        predictions = data_parallel(model, batch_per_gpu, gpus, joined(link, device))
        modelled = as_table(predictions, f"{model} model", f"{device} GPUs joined by {link}")
        speedup(*([measured] if measured else []), modelled, figure=figure)
        figure.alt = describe(predictions, model, batch_per_gpu, link)

    return explore(
        draw,
        model=choice("model", list(MODELS), model),
        batch_per_gpu=choice("sequences per GPU", [1, 2, 4, 8, 16, 32, 64, 128], batch_per_gpu),
        gpus=choice("GPUs, up to", [2**k for k in range(1, 11)], gpus),
        link=choice("link", list(LINKS), link),
    )


def joined(link: str, device: str = "h100") -> Cluster:
    """Give the cluster whose GPUs are all joined by this link."""
    if link not in LINKS:
        raise ValueError(f"a link is one of {', '.join(LINKS)}; got {link!r}")
    return cluster(device, **LINKS[link])


def data_parallel(model: str, batch_per_gpu: int, gpus: int, on: Cluster) -> dict[int, Prediction]:
    """Predict a step on 1, 2, 4 ... GPUs, each with its own sequences, one at a time (the work grows with the GPUs)."""
    if model not in MODELS:
        raise ValueError(f"a model is one of {', '.join(MODELS)}; got {model!r}")
    counts = [2**k for k in range(gpus.bit_length()) if 2**k <= gpus]
    return {
        n: predict(
            MODELS[model], Layout(dp=n, microbatches=batch_per_gpu), on, global_batch=n * batch_per_gpu, seq=SEQ,
            stack="ideal",  # published peaks and links: what the hardware allows
        )
        for n in counts
    }  # fmt: skip


def as_table(predictions: dict[int, Prediction], worker: str, hardware: str) -> Table:
    """Put predicted seconds in a table, to be drawn as any other."""
    seconds = {n: p.seconds for n, p in predictions.items()}
    return tabulate_seconds(
        seconds, clock="virtual", hardware=hardware, worker=worker, work="weak", not_modelled=NOT_MODELLED
    )  # fmt: skip


def describe(predictions: dict[int, Prediction], model: str, batch_per_gpu: int, link: str) -> str:
    """Say what the last point of the curve means, and whether a replica would fit at all."""
    alone, n = predictions[min(predictions)], max(predictions)
    p = predictions[n]
    worth = n * alone.seconds / p.seconds
    text = (
        f"Modelled: a {model} model, {batch_per_gpu} x {SEQ} tokens per GPU and step, over {link}: {n} GPUs do the "
        f"work of {three_digits(worth)} ({worth / n:.1%} efficiency; a step takes {say_seconds(p.seconds)}, on one GPU "
        f"{say_seconds(alone.seconds)})."
    )
    if worth < 1:
        text += f" The {n} GPUs lose to one."
    if not p.fits:
        text += (
            f" Each GPU would need {say_memory(p.memory_bytes)} and has {say_memory(p.capacity_bytes)}: "
            "plain data parallelism does not fit, sharding (ZeRO) would be needed."
        )
    return text
