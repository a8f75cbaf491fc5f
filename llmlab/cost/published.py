"""Measured steps that others published: facts in `data/published/`, read into the sizes that `predict` takes."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

import numpy as np

from llmlab.cost.arrays import LayoutColumns, ModelColumns, Numbers
from llmlab.cost.prediction import RECOMPUTE, Prediction, predict_sizes
from llmlab.cost.sizes import NUMBER_BYTES, Sizes
from llmlab.cost.stack import Stack
from llmlab.hardware import Cluster, cluster
from llmlab.hardware.facts import facts, read_facts
from llmlab.hardware.specs import Link

OVERLAPPED_UP_TO = 18.4e9  # parameters: larger models of Megatron 2021 reduced gradients after the last backward
# hardware named in a table -> cluster, GB/s per device between nodes (blank: the cluster's own)
HARDWARE = (
    ("A100-SXM-40GB", "a100-40gb", 25.0), ("A100-SXM-80GB (Jean Zay", "a100", 6.25), ("4x200Gb", "a100", 12.5),
    ("4x100Gb", "a100", 6.25), ("A100", "a100", None), ("A800", "a100", None), ("AWS EFA", "h100", None),
    ("H100", "h100", None), ("H200", "h200", None), ("B200", "b200", None), ("V100-SXM2-16GB", "v100-16gb", None),
    ("V100", "v100", None), ("TPU v4", "tpu-v4", None), ("TPU v5e", "tpu-v5e", None), ("TPU v5p", "tpu-v5p", None),
    ("TPU v6e", "tpu-v6e", None), ("MI300X", "mi300x", None),
)  # fmt: skip


class RowModel(TypedDict):
    """The sizes of a row's model, under `Config`'s names."""

    n_layer: int
    d_model: int
    n_head: int
    n_kv_head: int
    head_dim: float  # hidden / heads where a table states no other: not always whole
    d_ff: int
    vocab_size: int
    mlp: str
    dropout: float
    tie_embeddings: bool
    n_expert: int
    n_expert_active: int
    n_expert_shared: int


class RowLayout(TypedDict):
    """A row's layout, under `Layout`'s names. Never checked: some ran what `Layout.check` refuses."""

    dp: int
    tp: int
    pp: int
    cp: int
    ep: int
    zero: int
    sequence_parallel: bool
    schedule: str
    microbatches: int
    virtual_stages: int
    context: str


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
    gradient_bytes: int
    overlap: bool
    seconds: float | None
    memory_gib: float | None
    ran: bool
    score: str


def read_rows(table: str | Path) -> tuple[list[PublishedRow], int]:
    """Read a table by name, or a file with the same columns: the rows that state their layout, and how many do not."""
    path = Path(table) if str(table).endswith(".csv") else facts("published", f"{table}.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    read = [_read(row) for row in rows if _stated(row)]
    return read, len(rows) - len(read)


class Rows:
    """Many measured steps, in groups that one call can predict."""

    def __init__(self, rows: list[PublishedRow]) -> None:
        groups = defaultdict(list)
        for index, row in enumerate(rows):
            groups[row.cluster, row.precision, row.software["stack"], row.overlap].append(index)
        self.rows = rows
        self.groups = [(np.array(indices), *key, _sizes([rows[i] for i in indices])) for key, indices in groups.items()]

    def predictions(
        self, stacks: dict[str, Stack], without: tuple[str, ...] = ()
    ) -> list[tuple[np.ndarray, Prediction[Numbers]]]:
        """Predict each group with its software's stack: (which rows, their prediction)."""
        found = []
        for indices, on, precision, name, overlap, x in self.groups:
            facts = next(self.rows[i].software for i in indices)
            stack = dataclasses.replace(
                stacks.get(name, stacks["typical"]),
                fused_attention=facts["fused_attention"] == "yes",
                overlap_gradients=overlap,
            )
            found.append((indices, predict_sizes(x, on, stack, precision, without)))
        return found

    def gather(self, found: list[tuple[np.ndarray, Prediction[Numbers]]], name: str) -> np.ndarray:
        """One number of the predictions, in the rows' order."""
        values = np.empty(len(self.rows))
        for indices, prediction in found:
            values[indices] = getattr(prediction, name)
        return values

    def predict_seconds(self, stacks: dict[str, Stack]) -> np.ndarray:
        return self.gather(self.predictions(stacks), "seconds")

    def reached(self, found: list[tuple[np.ndarray, Prediction[Numbers]]]) -> np.ndarray:
        """Measured share of peak, the recomputed FLOPs counted."""
        work = (
            self.gather(found, "hardware_flops") / self.gather(found, "ranks") / self.gather(found, "peak_flops_per_s")
        )
        return work / self.seconds

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


@cache
def _known() -> list[dict[str, str]]:
    return sorted(read_facts("published", "software.csv"), key=lambda row: -len(row["framework"] + row["hardware"]))


def _software(row: dict[str, str]) -> dict[str, str]:
    """What is known of the software that a row ran: the longest name that fits; the shortest fits all."""
    fits = (
        each
        for each in _known()
        if row["framework"].startswith(each["framework"]) and each["hardware"] in row["hardware"]
    )
    return next(fits)


def _stated(row: dict[str, str]) -> bool:
    """Whether a row says enough: the model's sizes, the batch, the layout, and what was measured."""
    if "LoRA" in row["model"]:  # most of its weights are frozen: no gradients, no optimizer
        return False
    sized = (row["hidden"] and (row["layers"] or row["params_b"])) or _sizes_of(row["model"]).get("hidden")
    laid_out = "fp4" not in row["precision"] and row["tp"] and row["global_batch"] and row["seq"]
    stepped = row["micro_batch"] or int(row["cp"] or 1) > 1  # a context cut in parts: one sequence at a time
    return bool(sized and laid_out and stepped and row["score"] not in ("", "shape") and _cluster(row))


def _read(row: dict[str, str]) -> PublishedRow:
    def count(column: str, default: int = 1) -> int:
        return int(float(row[column] or default))

    config = _config(row)
    software = dict(_software(row))
    if config["n_expert"]:  # other kernels: sorting, grouped products, all-to-all
        software["stack"] += "-moe"
    tp, pp, cp, vp = count("tp"), count("pp"), count("cp"), count("vp")
    dp = count("dp", max(1, count("gpus") // (tp * pp * cp)))
    micro = count("micro_batch")
    m = max(1, round(count("global_batch") / (dp * micro)))
    wide_reduce = "mixed_precision=amp_bf16/DEFAULT" in row.get("extra", "")
    overlap = software["overlap_gradients"] == "yes"
    if software["stack"] == "megatron-2022":
        overlap = float(row["params_b"] or 0) * 1e9 <= OVERLAPPED_UP_TO
    usual = software["sequence_parallel"] == "yes" and tp > 1
    layout: RowLayout = {
        "dp": dp, "tp": tp, "pp": pp, "cp": cp, "ep": count("ep"), "context": "ring",
        "zero": count("zero_stage", int(software["zero"])),
        "sequence_parallel": row["seq_parallel"] == "yes" if row["seq_parallel"] else usual,
        "schedule": "interleaved" if vp > 1 else "1f1b", "microbatches": m, "virtual_stages": vp,
    }  # fmt: skip
    seq = count("seq")
    on = _cluster(row)
    assert on is not None  # a row is read only where its hardware is known
    return PublishedRow(
        row_id=row["row_id"],
        label=f"{row['model']} tp={tp} pp={pp} dp={dp} m={m}",
        software=software,
        cluster=on,
        precision=_precision(row),
        config=config,
        layout=layout,
        micro_batch=micro,
        seq=seq,
        recompute=_recompute(row["recompute"]),
        gradient_bytes=4 if wide_reduce else int(software["gradient_bytes"]),
        overlap=overlap,
        seconds=_seconds(row, config, dp * micro * m * seq),
        memory_gib=float(row["memory_gb"]) if row["memory_gb"] else None,
        ran=row["status"] == "ok",
        score=row["score"],
    )


def _precision(row: dict[str, str]) -> str:
    """As stated; where the cell is empty, bf16, but fp8 in Megatron-Bridge's tables."""
    stated = next((p for p in ("fp8", "bf16", "fp16", "fp32") if p in row["precision"]), "")
    return stated or ("fp8" if row["framework"].startswith("Megatron-Bridge") else "bf16")


def _recompute(text: str) -> int:
    return RECOMPUTE.index(text) if text in RECOMPUTE else (2 if text else 0)


@cache
def _sizes_of(name: str) -> dict[str, str]:
    """What is published of a model, by the longest name that a row's begins with; {} where nothing is."""
    known = [row for row in read_facts("published", "sizes.csv") if name.lower().startswith(row["model"])]
    return max(known, key=lambda row: len(row["model"]), default={})


def _config(row: dict[str, str]) -> RowModel:
    """The model's sizes: as the table states them, else as published, else GPT's proportions."""
    known = _sizes_of(row["model"])

    def count(column: str) -> int:
        return int(float(row.get(column) or known.get(column) or 0))

    hidden, vocab = count("hidden"), count("vocab") or 51200
    layers = count("layers") or round((float(row["params_b"]) * 1e9 - vocab * hidden) / (12 * hidden**2))
    heads = count("heads") or hidden // 128
    mlp = known.get("mlp", "gelu")
    return {
        "n_layer": layers, "d_model": hidden, "n_head": heads, "n_kv_head": count("kv_heads") or heads,
        "head_dim": count("head_dim") or hidden / heads, "d_ff": count("ffn") or 4 * hidden, "vocab_size": vocab,
        "mlp": mlp, "dropout": 0.1 if mlp == "gelu" else 0.0, "tie_embeddings": known.get("tied", "yes") == "yes",
        "n_expert": count("experts"), "n_expert_active": count("active_experts"), "n_expert_shared": 0,
    }  # fmt: skip


@cache
def _named(name: str, gbytes_per_s: float | None, per_node: int) -> Cluster:
    on = cluster(name)
    if per_node and per_node != on.devices_per_node and not name.startswith("tpu"):
        on = cluster(name, devices_per_node=per_node)
    if gbytes_per_s is None:
        return on
    return cluster(on, inter=Link(f"{gbytes_per_s} GB/s a device", on.inter.latency_s, gbytes_per_s * 1e9, 0.9))


def _cluster(row: dict[str, str]) -> Cluster | None:
    for words, name, gbytes_per_s in HARDWARE:
        if words in row["hardware"]:
            return _named(name, gbytes_per_s, int(float(row["gpus_per_node"] or 0)))
    return None


def _seconds(row: dict[str, str], c: RowModel, tokens: int) -> float | None:
    """Step time as printed, or from tokens/s, or from the TFLOP/s by the formula the table names."""
    if row["step_time_s"]:
        return float(row["step_time_s"])
    gpus = float(row["gpus"] or 1)
    if row["tokens_per_s_per_gpu"]:
        return tokens / (float(row["tokens_per_s_per_gpu"]) * gpus)
    if not row["tflops_per_gpu"]:
        return None
    rate = float(row["tflops_per_gpu"]) * 1e12 * gpus
    if "96*B" in row["tflops_def"] or "hardware" in row["tflops_def"]:
        # Narayanan et al. 2021: the recomputed forward is counted
        per_layer = 1 + int(row["seq"]) / (6 * c["d_model"]) + c["vocab_size"] / (16 * c["n_layer"] * c["d_model"])
        return 96 * tokens * c["n_layer"] * c["d_model"] ** 2 * per_layer / rate
    return _model_flops(c, tokens, int(row["seq"])) / rate


def _model_flops(c: RowModel, tokens: int, seq: int) -> float:
    q, kv = c["n_head"] * c["head_dim"], c["n_kv_head"] * c["head_dim"]
    mlp = (3 if c["mlp"] == "swiglu" else 2) * c["d_model"] * c["d_ff"] * max(1, c["n_expert_active"])
    layer = 2 * c["d_model"] * (q + kv) + mlp + 2 * seq * q
    return 6 * tokens * (c["n_layer"] * layer + c["vocab_size"] * c["d_model"])


def _sizes(rows: list[PublishedRow]) -> Sizes:
    def join(dicts: Sequence[Mapping[str, object]]) -> dict[str, np.ndarray]:
        return {name: np.array([each[name] for each in dicts]) for name in dicts[0]}

    return Sizes(
        config=ModelColumns(**join([row.config for row in rows])),
        layout=LayoutColumns(**join([row.layout for row in rows])),
        b=np.array([row.micro_batch for row in rows]),
        T=np.array([row.seq for row in rows]),
        w=NUMBER_BYTES[rows[0].precision],
        g=np.array([row.gradient_bytes for row in rows]),
        recompute=np.array([row.recompute for row in rows]),
    )
