"""Measured steps that others published: facts in `data/published/`, read into the sizes that `predict` takes."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from llmlab.cost import reading
from llmlab.cost.arrays import LayoutColumns, ModelColumns, Numbers
from llmlab.cost.options import HIDDEN
from llmlab.cost.prediction import RECOMPUTE, Prediction, predict_sizes
from llmlab.cost.reading import Row, RowLayout, RowModel
from llmlab.cost.sizes import NUMBER_BYTES, Sizes
from llmlab.cost.software import FUSED, LIBRARY
from llmlab.cost.stack import Stack
from llmlab.hardware import Cluster
from llmlab.hardware.facts import facts

OVERLAPPED_UP_TO = 18.4e9  # parameters: larger models of Megatron 2021 reduced gradients after the last backward


@dataclass(frozen=True)
class PublishedRow:
    """One measured step: its sizes, what it ran on and with which software; seconds and GiB where printed."""

    row_id: str
    label: str
    software: dict[str, str]
    cluster: Cluster
    precision: str
    config: RowModel
    layout: RowLayout
    micro_batch: int
    seq: int
    recompute: int
    kept: float
    kept_core: bool
    gradient_bytes: int
    shard: int
    overlap: bool
    tp_overlap: bool
    ep_overlap: bool
    recipe: str
    seconds: float | None
    memory_gib: float | None
    ran: bool
    score: str


def read_rows(table: str | Path) -> tuple[list[PublishedRow], Counter[str]]:
    """Read a table by name, or a file with the same columns: the rows that can be predicted, and how many cannot be,
    by the name of the rule that refuses them (`cost.reading.RULES`)."""
    path = Path(table) if str(table).endswith(".csv") else facts("published", f"{table}.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    why = [reading.refusal(row) for row in rows]
    read = [_read(row) for row, refused in zip(rows, why, strict=True) if not refused]
    return read, Counter(refused for refused in why if refused)


def check_rows(path: str | Path) -> dict[str, list[str]]:
    """Read a file of contributed rows, a line each under the tables' columns: {row_id: what it still lacks}."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row.get("row_id") or f"line {line}": reading.missing(row) for line, row in enumerate(rows, 2)}


class Rows:
    """Many measured steps, in groups that one call can predict."""

    def __init__(self, rows: list[PublishedRow]) -> None:
        groups = defaultdict(list)
        for index, row in enumerate(rows):
            key = (
                row.cluster,
                row.precision,
                row.software["stack"],
                row.software["release"],
                row.overlap,
                row.tp_overlap,
                row.ep_overlap,
                row.recipe,
            )
            groups[key].append(index)
        self.rows = rows
        self.groups = [(np.array(indices), _sizes([rows[i] for i in indices])) for indices in groups.values()]

    def predictions(
        self, stacks: Mapping[str, Stack], without: tuple[str, ...] = ()
    ) -> list[tuple[np.ndarray, Prediction[Numbers]]]:
        """Predict each group with its software's stack: (which rows, their prediction)."""
        found = []
        for indices, x in self.groups:
            row = self.rows[indices[0]]
            found.append((indices, predict_sizes(x, row.cluster, row_stack(row, stacks), row.precision, without)))
        return found

    def gather(self, found: list[tuple[np.ndarray, Prediction[Numbers]]], name: str) -> np.ndarray:
        """One number of the predictions, in the rows' order."""
        values = np.empty(len(self.rows))
        for indices, prediction in found:
            values[indices] = getattr(prediction, name)
        return values

    def predict_seconds(self, stacks: Mapping[str, Stack]) -> np.ndarray:
        return self.gather(self.predictions(stacks), "seconds")

    def reached(self, found: list[tuple[np.ndarray, Prediction[Numbers]]]) -> np.ndarray:
        """Measured share of peak, the recomputed FLOPs counted."""
        work = (
            self.gather(found, "hardware_flops") / self.gather(found, "ranks") / self.gather(found, "peak_flops_per_s")
        )
        return work / self.seconds

    @cached_property
    def shares(self) -> np.ndarray:
        """The same, counted once: it is the measured seconds', whatever the stack."""
        return self.reached(self.predictions({"typical": Stack()}))

    @property
    def stack(self) -> str:
        """The software's stack; a table has one."""
        return self.rows[0].software["stack"]

    @property
    def seconds(self) -> np.ndarray:
        """Measured; nan where not printed."""
        return np.array([row.seconds or np.nan for row in self.rows])

    @property
    def memory_gib(self) -> np.ndarray:
        return np.array([row.memory_gib or np.nan for row in self.rows])


def row_stack(row: PublishedRow, stacks: Mapping[str, Stack]) -> Stack:
    """The stack a row ran with, of its own release, with the habits that the row states."""
    found = stacks.get(row.software["stack"], stacks["typical"])
    return dataclasses.replace(
        found.with_recipe(row.recipe),
        release=row.software["release"],
        fused_attention=row.software["fused_attention"] == "yes",
        overlap_gradients=row.overlap,
        software=FUSED if row.software["fused_accumulation"] == "yes" else LIBRARY,
        tp_overlap=found.tp_overlap if row.tp_overlap else 0.0,
        ep_overlap=found.ep_overlap or (HIDDEN if row.ep_overlap else 0.0),
    )


def _read(row: Row) -> PublishedRow:
    config, facts = reading.model(row), reading.software(row)
    on = reading.cluster_of(row)
    assert on is not None and facts is not None  # or the row would have been refused
    if config["n_expert"]:  # other kernels: sorting, grouped products, all-to-all
        facts["stack"] += "-moe"
    layout, seq = reading.layout(row, facts), reading.number(row, "seq")
    kind, kept = reading.recomputing(row, facts)
    micro = reading.micro_batch(row, layout["tp"])
    wide_reduce = "mixed_precision=amp_bf16/DEFAULT" in row.get("extra", "")
    overlap = facts["overlap_gradients"] == "yes"
    if facts["stack"] == "megatron-2022":
        overlap = float(row["params_b"] or 0) * 1e9 <= OVERLAPPED_UP_TO
    tokens = layout["dp"] * layout["microbatches"] * micro * seq
    return PublishedRow(
        row_id=row["row_id"],
        label=f"{row['model']} tp={layout['tp']} pp={layout['pp']} dp={layout['dp']} m={layout['microbatches']}",
        software=facts,
        cluster=on,
        precision=reading.precision(row),
        config=config,
        layout=layout,
        micro_batch=micro,
        seq=seq,
        recompute=RECOMPUTE.index(kind),
        kept=sum(_width(config, name) for name in kept),
        kept_core="attention" in kept,
        gradient_bytes=4 if wide_reduce else int(facts["gradient_bytes"]),
        shard=reading.sharers(row, on, facts),
        overlap=overlap,
        recipe=reading.recipe(row, facts),
        tp_overlap="async TP" in row.get("extra", "") or facts["tp_overlap"] == "yes",
        ep_overlap="ep_overlap=yes" in row.get("extra", ""),
        seconds=reading.seconds(row, config, tokens),
        memory_gib=float(row["memory_gb"]) if row["memory_gb"] else None,
        ran=row["status"] == "ok",
        score=row["score"],
    )


def _width(c: RowModel, product: str) -> float:
    """Width of what one of a layer's products gives, 0 of what is none."""
    q, kv = c["n_head"] * c["head_dim"], c["n_kv_head"] * c["head_dim"]
    return {"q": q, "k": kv, "v": kv, "out": c["d_model"], "gate": c["d_ff"]}.get(product, 0)


def _sizes(rows: list[PublishedRow]) -> Sizes:
    def join(dicts: Sequence[Mapping[str, object]], wide: bool) -> dict[str, np.ndarray]:
        columns = {name: np.array([each[name] for each in dicts]) for name in dicts[0]}
        # sizes as floats: products of a few of them pass 2^31, and 2^63, in whole numbers
        return {name: each * 1.0 if wide and each.dtype.kind == "i" else each for name, each in columns.items()}

    return Sizes(
        config=ModelColumns(**join([row.config for row in rows], wide=True)),
        layout=LayoutColumns(**join([row.layout for row in rows], wide=False)),
        b=np.array([row.micro_batch for row in rows]) * 1.0,
        T=np.array([row.seq for row in rows]) * 1.0,
        w=NUMBER_BYTES[rows[0].precision],
        g=np.array([row.gradient_bytes for row in rows]),
        recompute=np.array([row.recompute for row in rows]),
        shard=np.array([row.shard for row in rows]),
        kept=np.array([row.kept for row in rows]),
        kept_core=np.array([row.kept_core for row in rows]),
        early_stop=np.array([row.software["early_stop"] == "yes" for row in rows]),
        by_cost=np.array([row.software["stages"] == "by cost" for row in rows]),
    )
