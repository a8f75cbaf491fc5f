"""What bounds a layer's kernels: computing, or moving bytes? Sliders on the roofline of any device."""

from __future__ import annotations

import ipywidgets as W

from llmlab.cost.kernels import layer_kernels
from llmlab.cost.models import find_config
from llmlab.hardware import cluster
from llmlab.plot import Picture, explore
from llmlab.plot.rooflines import roofline
from llmlab.widgets.planner import CLUSTERS, MODELS, POWERS
from llmlab.widgets.sliders import choice

NUMBER_BYTES = {"bf16": 2, "fp32": 4}


def roofline_explorer(
    model: str = "llama3-8b", device: str = "h100", *, batch: int = 1, seq: int = 4096, tp: int = 1, dtype: str = "bf16"
) -> W.VBox:
    """Explore the kernels of a layer on a device's roofline: model, device, tokens, tensor parallelism, number type."""
    return explore(
        draw_roofline,
        model=choice("model", MODELS, model),
        device=choice("device", [*CLUSTERS, "laptop"], device),
        batch=choice("sequences", POWERS[:8], batch),
        seq=choice("tokens a sequence", [1, *(2**k for k in range(4, 18))], seq),
        tp=choice("tensor (tp)", POWERS[:6], tp),
        dtype=choice("number type", list(NUMBER_BYTES), dtype),
    )


def draw_roofline(figure: Picture, model: str, device: str, batch: int, seq: int, tp: int, dtype: str) -> Picture:
    """Draw what the sliders say."""
    kernels = layer_kernels(find_config(model), batch, seq, tp=tp, number_bytes=NUMBER_BYTES[dtype])
    note = f"A layer and the logits of {model} forward on {batch} x {seq:,} tokens, tp={tp}, {dtype}."
    return roofline(cluster(device).device, kernels, dtype=dtype, note=note, figure=figure)
