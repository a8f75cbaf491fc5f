"""Any model on any cluster: what a layout takes, beside the planner's best; and how far more GPUs help."""

from __future__ import annotations

from functools import cache
from typing import Any

import ipywidgets as W

from llmlab.cost import Prediction, predict
from llmlab.cost.growing import grow
from llmlab.cost.models import find_config
from llmlab.cost.planning import plan
from llmlab.cost.plans import Planned, say_layout
from llmlab.cost.prediction import RECOMPUTE
from llmlab.parallel.layout import Layout
from llmlab.plot import explore
from llmlab.plot.picture import Picture
from llmlab.plot.predictions import describe_prediction, prediction, refusal
from llmlab.plot.scalings import scaling
from llmlab.plot.style import say_seconds
from llmlab.widgets.sliders import choice

MODELS = [
    "gpt2", "gpt2-xl", "gpt3-1.3b", "llama3-8b", "llama2-13b", "gpt-neox-20b", "mixtral-8x7b", "llama3-70b",
    "gpt3-175b", "bloom-176b", "llama3-405b", "megatron-1t",
]  # fmt: skip
CLUSTERS = ["v100", "a100", "h100", "h200", "b200", "mi300x", "tpu-v4", "tpu-v5p", "rtx4090"]
POWERS = [2**k for k in range(15)]  # to 16,384
SCHEDULES = {"1f1b": ("1f1b", 1), "interleaved": ("interleaved", 2), "zb_h1": ("zb_h1", 1)}


def prediction_explorer(
    model: str = "llama3-70b", cluster: str = "h100", *, gpus: int = 64, global_batch: int = 512, seq: int = 4096
) -> W.VBox:
    """Explore what a layout takes on a cluster: model, machines, batch, and every axis a slider; dp is what is left."""

    def draw(figure: Picture, model: str, cluster: str, gpus: int, global_batch: int, seq: int, **ways: Any) -> None:
        draw_prediction(model, cluster, gpus, global_batch, seq, ways, figure)

    return explore(
        draw,
        model=choice("model", MODELS, model),
        cluster=choice("cluster", CLUSTERS, cluster),
        gpus=choice("GPUs", POWERS, gpus),
        global_batch=choice("sequences a step", POWERS, global_batch),
        seq=choice("tokens a sequence", [2**k for k in range(9, 18)], seq),
        tp=choice("tensor (tp)", POWERS[:7], 8),
        pp=choice("pipeline (pp)", POWERS[:7], 1),
        cp=choice("context (cp)", POWERS[:6], 1),
        ep=choice("expert (ep)", POWERS[:7], 1),
        zero=choice("ZeRO stage", [0, 1, 2, 3], 1),
        size=choice("sequences at a time", POWERS[:6], 1),
        schedule=choice("schedule", list(SCHEDULES), "1f1b"),
        recompute=choice("recompute", list(RECOMPUTE), "none"),
    )


def draw_prediction(
    model: str,
    cluster: str,
    gpus: int,
    global_batch: int,
    seq: int,
    ways: dict[str, Any],
    figure: Picture | None = None,
) -> Picture:
    """Draw the layout's memory and time, or why it is none; the sentence names the planner's best."""
    best = best_of(model, cluster, gpus, global_batch, seq)
    try:
        layout, p = predict_ways(model, cluster, gpus, global_batch, seq, **ways)
    except ValueError as illegal:
        figure = refusal(str(illegal), figure=figure)
        figure.alt += f" {describe_best(best, None)}"
        return figure
    note = f"{model}, {gpus:,} GPUs, {global_batch:,} x {seq:,} tokens a step: {say_layout(layout)}."
    title = f"{p.verdict}: {say_seconds(p.seconds)} a step, MFU {p.mfu:.1%}"
    figure = prediction(p, title, hardware=f"{cluster} cluster", note=note, figure=figure)
    figure.alt = f"{say_layout(layout)}. {describe_prediction(p)} {describe_best(best, p)}"
    return figure


def predict_ways(
    model: str, cluster: str, gpus: int, global_batch: int, seq: int, *, tp: int, pp: int, cp: int, ep: int, zero: int,
    size: int, schedule: str, recompute: str,
) -> tuple[Layout, Prediction]:  # fmt: skip
    """Predict what the sliders say. Raises ValueError, saying why, for what is no layout."""
    if gpus % (tp * pp * cp):
        raise ValueError(f"tp={tp} x pp={pp} x cp={cp} = {tp * pp * cp} does not divide {gpus} GPUs")
    dp = gpus // (tp * pp * cp)
    if global_batch % (dp * size):
        raise ValueError(f"a batch of {global_batch} does not split over dp={dp} x {size} sequences at a time")
    name, virtual_stages = SCHEDULES[schedule] if pp > 1 else ("1f1b", 1)
    layout = Layout(
        dp=dp, tp=tp, pp=pp, cp=cp, ep=ep, zero=zero, sequence_parallel=tp > 1, schedule=name,
        virtual_stages=virtual_stages, microbatches=global_batch // (dp * size),
    )  # fmt: skip
    p = predict(find_config(model), layout, cluster, global_batch=global_batch, seq=seq, recompute=recompute)
    return layout, p


@cache
def best_of(model: str, cluster: str, gpus: int, global_batch: int, seq: int) -> Planned | str:
    """Give the planner's best, or why there is none."""
    try:
        return plan(find_config(model), cluster, gpus=gpus, global_batch=global_batch, seq=seq, limit=1)[0]
    except ValueError as impossible:
        return str(impossible)


def describe_best(best: Planned | str, mine: Prediction | None) -> str:
    """Say the planner's best, and how far this layout is from it."""
    if isinstance(best, str):
        return f"The planner: {best}."
    seconds = best.prediction.seconds
    text = (
        f"The planner's best takes {say_seconds(seconds)}, MFU {best.prediction.mfu:.1%}: "
        f"{say_layout(best.layout)}, recompute {best.recompute}"
    )
    return f"{text}; yours takes {mine.seconds / seconds:.2f} times as long." if mine else f"{text}."


def scaling_explorer(
    model: str = "llama3-70b", cluster: str = "h100", *, most: int = 16384, global_batch: int = 1024, seq: int = 4096
) -> W.VBox:
    """Explore strong and weak scaling: one replica's layout, and data parallelism around it, to 16,384 GPUs."""

    def draw(figure: Picture, **chosen: Any) -> None:
        draw_scaling(figure=figure, **chosen)

    return explore(
        draw,
        model=choice("model", MODELS, model),
        cluster=choice("cluster", CLUSTERS, cluster),
        most=choice("GPUs, up to", POWERS[3:], most),
        global_batch=choice("sequences a step", POWERS[4:], global_batch),
        seq=choice("tokens a sequence", [2**k for k in range(9, 18)], seq),
        tp=choice("tensor (tp)", POWERS[:7], 8),
        pp=choice("pipeline (pp)", POWERS[:7], 2),
        zero=choice("ZeRO stage", [0, 1, 2, 3], 1),
    )


def draw_scaling(
    model: str, cluster: str, most: int, global_batch: int, seq: int, tp: int, pp: int, zero: int,
    figure: Picture | None = None,
) -> Picture:  # fmt: skip
    """Draw both curves, a sequence at a time; a weak replica has what the last strong one has, at least 16."""
    ways: dict[str, Any] = {"tp": tp, "pp": pp, "zero": zero, "sequence_parallel": tp > 1}
    share = max(16, global_batch * tp * pp // most)
    try:
        curves = {
            f"{work} scaling": grow(
                find_config(model), Layout(microbatches=batch, **ways), cluster, most=most, work=work,
                global_batch=batch, seq=seq,
            )
            for work, batch in (("strong", global_batch), ("weak", share))
        }  # fmt: skip
    except ValueError as illegal:
        return refusal(str(illegal), figure=figure)
    note = f"{model}, tp={tp}, pp={pp}, ZeRO {zero}; strong: {global_batch:,} x {seq:,} tokens a step; weak: {share} x "
    note += f"{seq:,} a replica. Not modelled: failures, data loading."
    return scaling(curves, hardware=f"{cluster} cluster", note=note, figure=figure)
