"""Measured steps that others published, and what `predict` says of the same: facts in `data/published/`."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median
from types import SimpleNamespace
from typing import Any

from llmlab.cost.step import Prediction, predict
from llmlab.hardware.facts import read_facts
from llmlab.parallel.layout import Layout

# What each table's software did, as its paper or repository says; nothing in here was fitted to the table.
STACKS: dict[str, dict[str, Any]] = {
    "megatron2021": {"fused_attention": False, "gradient_bytes": 4},
    "korthikanti2022": {"fused_attention": False, "gradient_bytes": 4},
    "zero_bubble": {"fused_attention": False, "gradient_bytes": 4},
}
OVERLAPPED_UP_TO = 18.4e9  # parameters: larger models of Megatron 2021 reduced gradients after the last backward


@dataclass(frozen=True)
class Published:
    """One measured step: seconds, and GiB on the fullest device where they were printed."""

    label: str
    config: Any
    layout: Layout
    global_batch: int
    seq: int
    precision: str
    recompute: str
    stack: dict[str, Any]
    seconds: float
    memory_gib: float | None

    def predict(self) -> Prediction:
        """Predict the same step on the cluster it ran on."""
        return predict(
            self.config,
            self.layout,
            "a100",
            global_batch=self.global_batch,
            seq=self.seq,
            precision=self.precision,
            recompute=self.recompute,
            **self.stack,
        )


def read_published(table: str) -> list[Published]:
    """Read the rows of a table that the closed form covers.

    Left out: DeepSpeed's ZeRO-3 of Megatron 2021, Table 2 (its network reaches a small share of the links, which
    nothing here explains), and zero bubble's interleaved rows (a first and a last stage without a layer).
    """
    rows = [row for row in read_facts("published", f"{table}.csv") if row["zero_stage"] != "3"]
    return [_published(table, row) for row in rows if table != "zero_bubble" or row["vp"] == "1"]


@dataclass(frozen=True)
class Score:
    """How far predictions are from what was measured, as shares: `error` = mean |predicted / measured - 1|.

    `constant` is the error of "every run uses the table's median share of peak", which has to be beaten.
    """

    error: float
    bias: float
    constant: float
    worst: float
    memory_error: float | None


def score(rows: list[Published]) -> Score:
    """Compare a table's predictions with its measurements."""
    predictions = [row.predict() for row in rows]
    misses = [p.seconds / row.seconds - 1 for p, row in zip(predictions, rows, strict=True)]
    rates = [p.hardware_flops / row.seconds / p.ranks for p, row in zip(predictions, rows, strict=True)]
    sized = [
        p.memory_bytes / 2**30 / row.memory_gib - 1 for p, row in zip(predictions, rows, strict=True) if row.memory_gib
    ]
    return Score(
        error=mean(map(abs, misses)),
        bias=mean(misses),
        constant=mean(abs(rate / median(rates) - 1) for rate in rates),
        worst=max(map(abs, misses)),
        memory_error=mean(map(abs, sized)) if sized else None,
    )


def _published(table: str, row: dict[str, str]) -> Published:
    def count(column: str, default: int = 1) -> int:
        return int(row[column] or default)

    hidden, heads = count("hidden"), count("heads")
    config = SimpleNamespace(
        n_layer=count("layers"),
        d_model=hidden,
        n_head=heads,
        n_kv_head=count("kv_heads", heads),
        d_ff=count("ffn", 4 * hidden),
        vocab_size=count("vocab", 51200),  # GPT-2's, padded, where a table does not say
        max_seq=count("seq"),
        mlp="gelu",
        dropout=0.1,
    )
    microbatches = count("global_batch") // (count("dp") * count("micro_batch"))
    layout = Layout(
        dp=count("dp"),
        tp=count("tp"),
        pp=count("pp"),
        sequence_parallel=row["seq_parallel"] == "yes",
        schedule="interleaved" if count("vp") > 1 else "1f1b",
        virtual_stages=count("vp"),
        microbatches=microbatches,
    )
    stack = dict(STACKS[table])
    if table == "megatron2021":
        stack["overlap_gradients"] = float(row["params_b"]) * 1e9 <= OVERLAPPED_UP_TO
    return Published(
        label=f"{row['model']} tp={layout.tp} pp={layout.pp} dp={layout.dp} m={microbatches}",
        config=config,
        layout=layout,
        global_batch=count("global_batch"),
        seq=count("seq"),
        precision=row["precision"] or "fp16",
        recompute=row["recompute"] or "none",
        stack=stack,
        seconds=float(row["step_time_s"]) if row["step_time_s"] else _megatron_seconds(config, row),
        memory_gib=float(row["memory_gb"]) if row["memory_gb"] else None,
    )


def _megatron_seconds(c: Any, row: dict[str, str]) -> float:
    """Step time from the TFLOP/s of Narayanan et al. 2021, whose formula counts the recomputed forward."""
    tokens, seq = int(row["global_batch"]) * int(row["seq"]), int(row["seq"])
    per_layer = 1 + seq / (6 * c.d_model) + c.vocab_size / (16 * c.n_layer * c.d_model)
    flops = 96 * tokens * c.n_layer * c.d_model**2 * per_layer
    return flops / (float(row["tflops_per_gpu"]) * 1e12 * int(row["gpus"]))
