"""Plan a training step: every legal layout on so many GPUs predicted, those that fit ranked, with what they cost.

Seconds and bytes are `predict`'s: modelled, not measured. Prices are the caller's; power is the caller's or a data
sheet's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmlab.arguments import choices as some_of
from llmlab.arguments import instance, real, whole
from llmlab.cost.arrays import LayoutColumns, ModelLike, Numbers
from llmlab.cost.candidates import Choices, Workload, candidates
from llmlab.cost.comparing import doubt, exposure, tied
from llmlab.cost.models import find_sizes
from llmlab.cost.nearest import nearest_batch, nearest_gpus
from llmlab.cost.options import USUAL, Options
from llmlab.cost.plans import TIGHT, Plan, Planned, Prices, Refused, gib
from llmlab.cost.prediction import A_LAYOUT, CLUSTER, MARGIN, RECOMPUTE, Prediction
from llmlab.cost.stack import Stack
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster
from llmlab.parallel.layout import Layout

TIGHT_COSTS = 1.05  # how much slower a layout counts that may not fit after all
NEAR = 0.02  # of seconds: nobody's predictions tell such layouts apart, so the simpler is first


def plan(
    config: str | ModelLike,
    cluster: str | Cluster = CLUSTER,
    *,
    gpus: int,
    global_batch: int,
    seq: int,
    precision: str = "bf16",
    recompute: str | Sequence[str] | None = None,
    stack: str | Stack = "typical",
    options: Options = USUAL,
    zero: Sequence[int] = (0, 1, 2, 3),
    schedules: Sequence[str] = ("1f1b", "interleaved", "zb_h1"),
    virtual_stages: Sequence[int] | None = None,
    contexts: Sequence[str] = ("ring",),
    microbatch_sizes: Sequence[int] | None = None,
    memory_share: float = MARGIN,
    tokens: float = 1e9,
    prices: Prices | None = None,
    limit: int | None = 100,
) -> Plan:
    """Predict every legal layout of a step on `gpus` devices and rank those that fit.

    A layout's rank is by what it takes in five cases of six (its seconds, and one sigma of what they are uncertain by),
    so that 1% faster and twice as uncertain is not better. Within 2% the simpler is first: fewer axes split; those that
    no prediction tells from the first are said to be tied.

    `config`: sizes, or a published model's name (`python -m llmlab models`). `recompute`: one, some, or None for all.
    `virtual_stages`: None for all that give ranks equal chunks of layers. `microbatch_sizes`: in sequences, None for
    every power of two. `memory_share`: of a device that may be used, less than all since what an allocator loses is not
    modelled. `options`: what the run does otherwise than its stack's habits, see `lab.Options`. `tokens`: of the whole
    training, for GPU-hours, money and energy. `prices`: see `lab.Prices`. `limit`: rows kept, None for all. One that
    fills more than 95% of what may be used is ranked as if it were 5% slower, since memory is predicted no better than
    that.

    Raises ValueError where nothing is possible, naming the nearest request that is.
    """
    on = find_cluster(cluster)
    real("plan", "memory_share", memory_share, above=0, most=1)
    real("plan", "tokens", tokens, above=0)
    if limit is not None:
        whole("plan", "limit", limit, least=1)
    workload = Workload(find_sizes(config), on, gpus, global_batch, seq, precision, stack, options)
    prices = _prices("plan", prices, on)
    choices = Choices(zero, schedules, virtual_stages, contexts, microbatch_sizes=microbatch_sizes)
    asked = RECOMPUTE if recompute is None else [recompute] if isinstance(recompute, str) else recompute
    kinds = some_of("plan", "recompute", asked, RECOMPUTE)
    found, rules = candidates(workload, choices)
    if not len(found):
        raise ValueError(_no_layout(workload, choices, rules))
    seconds, needed, unsure = predict_all(workload, found, kinds)
    usable = memory_share * on.device.memory_bytes
    fits = needed <= usable
    refused = Refused(dict(rules.most_common()), int((~fits).sum()), float(needed.min()), usable)
    if not fits.any():
        raise ValueError(_does_not_fit(workload, choices, kinds, refused))
    counted = seconds * np.exp(unsure)
    order = rank(found, np.where(needed > TIGHT * usable, TIGHT_COSTS, 1) * counted, fits, len(kinds))
    firsts, alike = shortlist(found, counted, order)

    def rows(chosen: np.ndarray, alike: np.ndarray) -> tuple[Planned, ...]:
        again, columns = np.divmod(chosen, len(found))
        return _planned(workload, found.take(columns), [kinds[i] for i in again], tokens, prices, alike)

    kept = order[:limit]
    return Plan(
        workload, tokens, prices, rows(kept, np.zeros(len(kept), int)), int(fits.sum()), refused,
        rows(firsts[:limit], alike),
    )  # fmt: skip


def price_layout(
    config: str | ModelLike,
    layout: Layout,
    cluster: str | Cluster = CLUSTER,
    *,
    global_batch: int,
    seq: int,
    precision: str = "bf16",
    recompute: str = "none",
    stack: str | Stack = "typical",
    options: Options = USUAL,
    tokens: float = 1e9,
    prices: Prices | None = None,
) -> Planned:
    """Predict one layout, whether it fits or not, with what `tokens` of training would cost on it; see `plan`."""
    ranks = instance("price_layout", "layout", layout, Layout, A_LAYOUT).ranks
    workload = Workload(find_sizes(config), find_cluster(cluster), ranks, global_batch, seq, precision, stack, options)
    prices = _prices("price_layout", prices, workload.cluster)
    return _priced(layout, recompute, workload.predict(layout, recompute), tokens, prices)


def predict_all(
    workload: Workload, found: LayoutColumns, kinds: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds, bytes and one sigma of the seconds' logarithm, of every layout under every kind of recomputing: the
    kinds one after the other."""
    predicted = [workload.predict(found, kind) for kind in kinds]

    def join(values: Sequence[Numbers]) -> np.ndarray:
        return np.concatenate([np.broadcast_to(value, found.dp.shape) for value in values])

    unsure = [doubt(exposure(p)) for p in predicted]
    return join([p.seconds for p in predicted]), join([p.memory_bytes for p in predicted]), join(unsure)


def rank(found: LayoutColumns, seconds: np.ndarray, fits: np.ndarray, kinds: int) -> np.ndarray:
    """Sort those that fit by seconds, in steps of 2% from the fastest; within one the simpler first: fewer axes split,
    then lower stages, then the faster."""
    split = sum((getattr(found, axis) > 1).astype(int) for axis in ("dp", "tp", "pp", "cp", "ep"))
    simple = [
        split, found.cp, found.zero, found.sequence_parallel, found.schedule != "1f1b", found.virtual_stages,
        found.tp, found.pp, found.ep, found.microbatches,
    ]  # fmt: skip
    again = np.repeat(np.arange(kinds), len(found))[fits]
    kept = seconds[fits]
    steps = np.floor(np.log(kept / kept.min()) / NEAR + 1e-9)
    # of one split the faster first; what is equal but for rounding goes by what else is simple
    keys = [np.tile(column, kinds)[fits] for column in simple]
    return np.flatnonzero(fits)[np.lexsort([again, *keys[:1:-1], _digits(kept), keys[1], keys[0], steps])]


def shortlist(found: LayoutColumns, seconds: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the ranked layouts the first of each tp, pp and ep, and how many of the same are within 2% of its seconds.

    What else differs (replicas against context ranks, ZeRO, schedules, micro-batches) is quickly changed in a trial.
    """
    columns = order % len(found)
    split = np.stack([found.tp[columns], found.pp[columns], found.ep[columns]], axis=1)
    _, firsts, inverse = np.unique(split, axis=0, return_index=True, return_inverse=True)
    best = seconds[order[firsts]][inverse.reshape(-1)]  # [layouts that fit]: of each one's split
    near = np.bincount(inverse.reshape(-1), weights=np.abs(seconds[order] / best - 1) < NEAR, minlength=len(firsts))
    places = np.argsort(firsts)
    return order[firsts[places]], near[places].astype(int) - 1


def _digits(seconds: np.ndarray, digits: int = 9) -> np.ndarray:
    """Round to significant digits, so that sums in another order are equal."""
    unit = 10.0 ** (np.floor(np.log10(seconds)) - digits + 1)
    return np.round(seconds / unit) * unit


def _planned(
    workload: Workload, best: LayoutColumns, recompute: list[str], tokens: float, prices: Prices, alike: np.ndarray
) -> tuple[Planned, ...]:
    """Put the best layouts in rows, each with its own prediction."""
    together = workload.predict(best, recompute)
    same = tied(np.broadcast_to(together.seconds, len(best)), exposure(together))
    return tuple(
        replace(_priced(best.at(i), kind, together.at(i), tokens, prices), alike=int(alike[i]), tied=bool(same[i]))
        for i, kind in enumerate(recompute)
    )


def _priced(layout: Layout, recompute: str, p: Prediction[float], tokens: float, prices: Prices) -> Planned:
    hours = p.gpu_hours(tokens)
    return Planned(layout, recompute, p, hours, prices.money(hours), prices.energy_kwh(hours))


def _prices(call: str, prices: Prices | None, on: Cluster) -> Prices:
    asked = Prices() if prices is None else instance(call, "prices", prices, Prices, "write lab.Prices(per_gpu_hour=2)")
    return asked.on(on.device)


def _no_layout(workload: Workload, choices: Choices, rules: Counter[str]) -> str:
    batches = " or ".join(f"{batch:,}" for batch in nearest_batch(workload, choices))
    why = rules.most_common(1)[0][0] if rules else "the choices leave none"
    possible = f"; nearest batch: {batches}" if batches else ""
    return f"no legal layout on {workload.gpus:,} GPUs with a batch of {workload.global_batch:,}: {why}{possible}"


def _does_not_fit(workload: Workload, choices: Choices, kinds: Sequence[str], refused: Refused) -> str:
    wanted = nearest_gpus(workload, choices, kinds, refused.usable_bytes)
    possible = f"fits on {wanted:,} GPUs" if wanted else "no number of GPUs helps with this batch"
    return (
        f"no layout fits on {workload.gpus:,} x {workload.cluster.name}: the thriftiest needs "
        f"{gib(refused.least_bytes)} a GPU, {gib(refused.usable_bytes)} may be used; nearest: {possible}"
    )
