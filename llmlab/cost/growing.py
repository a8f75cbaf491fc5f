"""More and more GPUs: what a step takes as data parallelism grows around one replica's layout.

Strong scaling keeps the batch and splits it over more replicas; weak scaling gives each replica as many sequences as
the first had.
"""

from __future__ import annotations

from dataclasses import replace

from llmlab.arguments import choice, instance, wholes
from llmlab.cost.models import find_config
from llmlab.cost.prediction import A_LAYOUT, Prediction, predict
from llmlab.cost.stack import Stack
from llmlab.hardware import Cluster
from llmlab.model.config import Config
from llmlab.parallel.layout import Layout

WORKS = ("strong", "weak")


def grow(
    config: str | Config,
    replica: Layout,
    cluster: str | Cluster = "h100",
    *,
    most: int = 16384,
    work: str = "strong",
    global_batch: int,
    seq: int,
    precision: str = "bf16",
    recompute: str = "selective",
    stack: str | Stack = "typical",
) -> dict[int, Prediction[float]]:
    """Predict a step on 1, 2, 4 ... replicas of a layout, up to `most` GPUs: {GPUs: prediction}.

    `replica`: the layout of one (dp=1); its `microbatches` says how many sequences are computed at a time.
    `global_batch`: under strong scaling of every step, under weak scaling of one replica. Counts on which the batch
    does not divide are left out. Raises ValueError if that leaves none, and for a layout that is illegal anyway.
    """
    config = find_config(config)
    choice("grow", "work", work, WORKS)
    wholes("grow", 1, most=most, global_batch=global_batch, seq=seq)
    if instance("grow", "replica", replica, Layout, A_LAYOUT).dp != 1:
        raise ValueError(f"a replica has dp=1, got dp={replica.dp}")
    replica.check(config, global_batch, seq)
    size = global_batch // replica.microbatches
    found = {}
    for dp in [2**k for k in range((most // replica.ranks).bit_length())]:
        batch = global_batch * (dp if work == "weak" else 1)
        if batch % (dp * size):
            continue
        layout = replace(replica, dp=dp, microbatches=batch // (dp * size))
        if layout.schedule == "interleaved" and layout.microbatches % layout.pp:
            continue
        found[layout.ranks] = predict(
            config, layout, cluster, global_batch=batch, seq=seq, precision=precision, recompute=recompute, stack=stack
        )
    if not found:
        raise ValueError(f"most wants at least the {replica.ranks} GPUs of one replica, got {most}")
    return found


def efficiency(found: dict[int, Prediction[float]]) -> dict[int, float]:
    """Tokens a second and GPU, as a share of those on the fewest GPUs."""
    rates = {gpus: p.tokens_per_s / gpus for gpus, p in found.items()}
    return {gpus: rate / rates[min(rates)] for gpus, rate in rates.items()}
