"""How a row of a published table becomes a step to predict, by rules: what is not stated is refused, by name.

A rule that guesses moves a prediction by more than its constants do: a pipeline taken as not interleaved is up to half
bubble. What a software always does is known from its own text (`data/published/software.csv`) and may be left blank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import TypedDict

from llmlab.hardware import Cluster, cluster
from llmlab.hardware.facts import read_facts
from llmlab.hardware.specs import Link

Row = Mapping[str, str]

# hardware named in a table -> cluster, its network's name, GB/s per device between nodes (blank: the cluster's own)
HARDWARE = (
    ("A100-SXM-40GB", "a100-40gb", "", 25.0),
    ("Jean Zay", "a100", "Jean Zay", 6.25),
    ("Selene", "a100", "Selene", None),
    ("4x200Gb", "a100", "vTrain's", 12.5),
    ("4x100Gb RoCE", "a100", "InternEvo's", 6.25),
    ("RoCE between nodes", "a100", "zero bubble's", None),
    ("A100", "a100", "", None),
    ("A800", "a100", "", None),
    ("AWS EFA", "h100", "AWS EFA", None),
    ("Grand Teton", "h100-500w", "Grand Teton", None),
    ("GB300", "gb300", "", None),
    ("GB200", "gb200", "", None),
    ("B300", "b300", "", None),
    ("B200", "b200", "", None),
    ("H100", "h100", "", None),
    ("H200", "h200", "", None),
    ("V100-SXM2-16GB", "v100-16gb", "", None),
    ("V100", "v100", "", None),
    ("TPU v4", "tpu-v4", "", None),
    ("TPU v5e", "tpu-v5e", "", None),
    ("TPU v5p", "tpu-v5p", "", None),
    ("TPU v6e", "tpu-v6e", "", None),
    ("MI300X", "mi300x", "", None),
)
# kinds of recomputing, and what policies of JAX come to: `minimal` keeps every product's output but attention's scores
RECOMPUTED = {
    "": "none", "none": "none", "selective": "selective", "full": "full", "minimal": "selective",
    "save_dot_only": "selective", "qkv_proj_offloaded": "full", "save_qkv_proj": "full", "save_out_proj": "full",
    "save_dot_except_mlp": "full",
}  # fmt: skip
# and which products of a layer keep their outputs, where the others are computed again (MaxText's `get_remat_policy`)
KEPT = {
    "qkv_proj_offloaded": "q k v", "save_qkv_proj": "q k v", "save_out_proj": "out",
    "save_dot_except_mlp": "q k v out", "every other product": "q v gate attention",
}  # fmt: skip
PRECISIONS = (("fp4", "nvfp4"), ("mx", "mxfp8"), ("fp8", "fp8"), ("float8", "fp8"), ("bf16", "bf16"), ("fp16", "fp16"),
              ("fp32", "fp32"))  # fmt: skip
# parts of a model that no closed form here has: a row that names one is refused
NOT_MODELLED = {
    "lora": "LoRA: most weights are frozen", "mtp": "predicts several tokens", "nemotron_3": "state-space layers",
    "nemotronh": "state-space layers", "mamba": "state-space layers", "t5": "encoder and decoder", "bert": "masked",
    "deepseek": "latent attention", "kimi": "latent attention", "next": "linear attention", "vl": "images",
}  # fmt: skip
COLUMNS = (
    "row_id table hardware gpus gpus_per_node model params_b layers hidden ffn heads kv_heads seq vocab global_batch "
    "micro_batch tp pp vp dp cp ep zero_stage seq_parallel recompute precision framework status step_time_s "
    "tflops_per_gpu tflops_def mfu_pct tokens_per_s tokens_per_s_per_gpu memory_gb extra score"
).split()
RELEASE = re.compile(r"^(?P<name>.+?) (?P<release>\d\d\.\d\d(\.\d+)?)( NeMo Container)?$")


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


def refusal(row: Row) -> str:
    """Say why a row cannot be predicted; "" where it can."""
    return next((why for why, holds in RULES.items() if not holds(row)), "")


def missing(row: Row) -> list[str]:
    """Say all that keeps a row from being predicted and credited: for who contributes one (a CSV line, the tables'
    columns)."""
    columns = [f"no column {name!r}" for name in COLUMNS if name not in row]
    if columns:
        return columns
    found = [why for why, holds in RULES.items() if not holds(row)]
    if not (row["step_time_s"] or row["tokens_per_s_per_gpu"] or row["tflops_per_gpu"] or row["memory_gb"]):
        found.append("nothing measured: step_time_s, tokens_per_s_per_gpu, tflops_per_gpu or memory_gb")
    return found + [f"no {name}: where the figure stands" for name in ("table",) if not row[name]]


def number(row: Row, column: str, default: int = 1) -> int:
    return int(float(row.get(column) or default))


@cache
def _softwares() -> dict[str, dict[str, str]]:
    return {row["framework"]: row for row in read_facts("published", "software.csv")}


def software(row: Row) -> dict[str, str] | None:
    """What is known of the software a row ran, matched exactly but for its release; None where nothing is."""
    name, release = row["framework"], ""
    if found := RELEASE.match(name):
        name, release = found["name"], found["release"]
    on, known = cluster_of(row), _softwares()
    places = (on.network, on.device.generation) if on else ()
    facts = next((known[key] for key in (*(f"{name} on {place}" for place in places), name) if key in known), None)
    return {**facts, "release": variant(row, release)} if facts else None


@cache
def sizes_of(name: str) -> dict[str, str]:
    """What is published of a model, by the longest name that a row's begins with; {} where nothing is."""
    known = [row for row in read_facts("published", "sizes.csv") if name.lower().startswith(row["model"])]
    return max(known, key=lambda row: len(row["model"]), default={})


def cluster_of(row: Row) -> Cluster | None:
    """The cluster a table names; of NVL72 machines the NVLink domain is the node, however many a tray has."""
    for words, name, network, gbytes_per_s in HARDWARE:
        if words in row["hardware"]:
            per_node = number_in(row, "chips_per_slice") or number(row, "gpus_per_node", 0)
            return _cluster(name, network, gbytes_per_s, per_node)
    return None


@cache
def _cluster(name: str, network: str, gbytes_per_s: float | None, per_node: int) -> Cluster:
    on = cluster(name)
    own = per_node and per_node != on.devices_per_node and not name.startswith("gb")
    far = on.inter
    if gbytes_per_s is not None:
        far = Link(f"{gbytes_per_s} GB/s a device", far.latency_s, gbytes_per_s * 1e9, 0.9)
    return cluster(on, inter=far, devices_per_node=per_node if own else None, network=network)


def precision(row: Row) -> str:
    """As stated; where the cell is empty, bf16, but fp8 in Megatron-Bridge's tables."""
    stated = next((name for text, name in PRECISIONS if text in row["precision"].split(" (")[0]), "")
    return stated or ("fp8" if row["framework"].startswith("Megatron-Bridge") else "bf16")


def micro_batch(row: Row, tp: int) -> int:
    """Sequences of one replica at a time; JAX's tables count them for each device."""
    facts = software(row)
    return number(row, "micro_batch") * (tp if facts and facts["micro_batch_of"] == "device" else 1)


def sharers(row: Row, on: Cluster, facts: Row) -> int:
    """Ranks that one copy of the weights is sharded over, 0 for all: as stated; those of a node, or a TPU slice, in
    HSDP."""
    if stated := number_in(row, "fsdp_group"):
        return stated
    apart = "HSDP" in row["framework"] or number_in(row, "slices") > 1
    return on.devices_per_node // number(row, "tp") if apart else 0


def number_in(row: Row, word: str) -> int:
    """A number that a row's remarks state as `word=8`, else 0."""
    found = re.search(rf"(^|[^_a-z]){word}=(\d+)", row.get("extra") or "")
    return int(found[2]) if found else 0


def recipe(row: Row, facts: Row) -> str:
    """How narrow products are scaled: as stated, else as the software does."""
    stated = next((name for name in ("tensorwise", "rowwise") if name in (row.get("extra") or "")), "")
    return stated or facts["fp8_recipe"] or "delayed"


def variant(row: Row, release: str) -> str:
    """A release, and what else makes a software another one: kernels not compiled, tokens dropped for one shape."""
    eager = "variant=none" in (row.get("extra") or "")
    drops = "tokendrop" in row["model"]
    return " ".join(word for word in (release, "eager" * eager, "dropping" * drops) if word)


def degrees(row: Row) -> tuple[int, int, int, int]:
    """dp, tp, pp, cp: dp from the devices where they are stated, for some tables print it without ep."""
    tp, pp, cp = (number(row, axis) for axis in ("tp", "pp", "cp"))
    return number(row, "gpus") // (tp * pp * cp) if row["gpus"] else number(row, "dp"), tp, pp, cp


def layout(row: Row, facts: Row) -> RowLayout:
    dp, tp, pp, cp = degrees(row)
    vp, usual = number(row, "vp"), facts["sequence_parallel"] == "yes" and tp > 1
    return {
        "dp": dp, "tp": tp, "pp": pp, "cp": cp, "ep": number(row, "ep"), "context": "ring",
        "zero": number(row, "zero_stage", int(facts["zero"])),
        "sequence_parallel": row["seq_parallel"] == "yes" if row["seq_parallel"] else usual,
        "schedule": facts["schedule"] or ("interleaved" if vp > 1 else "1f1b"),
        "microbatches": round(number(row, "global_batch") / (dp * micro_batch(row, tp))), "virtual_stages": vp,
    }  # fmt: skip


def model(row: Row) -> RowModel:
    """The model's sizes: as the table states them, else as published, else GPT's proportions."""
    known = sizes_of(row["model"])

    def size(column: str) -> int:
        return int(float(row.get(column) or known.get(column) or 0))

    hidden, vocab = size("hidden"), size("vocab") or 51200
    layers = size("layers") or round((float(row["params_b"]) * 1e9 - vocab * hidden) / (12 * hidden**2))
    heads = size("heads") or hidden // 128
    mlp = known.get("mlp", "gelu")
    return {
        "n_layer": layers, "d_model": hidden, "n_head": heads, "n_kv_head": size("kv_heads") or heads,
        "head_dim": size("head_dim") or hidden / heads, "d_ff": size("ffn") or 4 * hidden,
        "vocab_size": vocab,
        "mlp": mlp, "dropout": 0.1 if mlp == "gelu" else 0.0, "tie_embeddings": known.get("tied", "yes") == "yes",
        "n_expert": size("experts"), "n_expert_active": size("active_experts"),
        "n_expert_shared": size("shared_experts"),
    }  # fmt: skip


def seconds(row: Row, c: RowModel, tokens: int) -> float | None:
    """Step time as printed, or from tokens/s, or from the TFLOP/s by the formula the table names."""
    gpus = float(row["gpus"] or 1)
    if row["step_time_s"]:
        return float(row["step_time_s"])
    if row["tokens_per_s_per_gpu"]:
        return tokens / (float(row["tokens_per_s_per_gpu"]) * gpus)
    if not row["tflops_per_gpu"]:
        return None
    rate, seq = float(row["tflops_per_gpu"]) * 1e12 * gpus, number(row, "seq")
    if "96*B" in row["tflops_def"] or "hardware" in row["tflops_def"]:
        # Narayanan et al. 2021: the recomputed forward is counted
        per_layer = 1 + seq / (6 * c["d_model"]) + c["vocab_size"] / (16 * c["n_layer"] * c["d_model"])
        return 96 * tokens * c["n_layer"] * c["d_model"] ** 2 * per_layer / rate
    causal = row["framework"].startswith("Megatron-Bridge")  # which counts the half of T x T that is not masked
    return _model_flops(c, tokens, seq / 2 if causal else seq) / rate


def recomputing(row: Row, facts: Row) -> tuple[str, list[str]]:
    """The kind of recomputing, and the products whose outputs it keeps: a software's own meaning of selective first."""
    policy = row["recompute"]
    if policy == "selective" and facts["selective"]:
        return "full", KEPT[facts["selective"]].split()
    return RECOMPUTED[policy], KEPT.get(policy, "").split()


def _model_flops(c: RowModel, tokens: int, keys: float) -> float:
    q, kv = c["n_head"] * c["head_dim"], c["n_kv_head"] * c["head_dim"]
    active = c["n_expert_active"] + c["n_expert_shared"] if c["n_expert"] else 1
    mlp = (3 if c["mlp"] == "swiglu" else 2) * c["d_model"] * c["d_ff"] * active
    layer = 2 * c["d_model"] * (q + kv) + mlp + 2 * keys * q
    return 6 * tokens * (c["n_layer"] * layer + c["vocab_size"] * c["d_model"])


def _not_modelled(row: Row) -> str:
    name = row["model"].lower()
    return next((why for word, why in NOT_MODELLED.items() if re.search(rf"(^|[^a-z]){word}", name)), "")


def _whole(row: Row) -> bool:
    """Whether the degrees multiply to the devices, and the batch divides."""
    dp, tp, pp, cp = degrees(row)
    laid_out = not row["gpus"] or prod((dp, tp, pp, cp)) == number(row, "gpus")
    return laid_out and dp > 0 and number(row, "global_batch") % (dp * micro_batch(row, tp)) == 0


def _virtual(row: Row) -> bool:
    """Whether the virtual stages are known: none without a pipeline, or in a software that has none."""
    facts = software(row)
    return bool(number(row, "pp") == 1 or row["vp"] or (facts and facts["interleaves"] == "no"))


# in this order; what each wants of a row, so that the name of the one that does not hold says what is missing
RULES: dict[str, Callable[[Row], bool]] = {
    "published for its trend": lambda row: row["score"] not in ("", "shape"),
    "hardware unknown": lambda row: cluster_of(row) is not None,
    "software unknown": lambda row: software(row) is not None,
    "model has parts that are not modelled": lambda row: not _not_modelled(row),
    "model's sizes not stated": lambda row: bool(
        (row["hidden"] and (row["layers"] or row["params_b"])) or sizes_of(row["model"]).get("hidden")
    ),
    "layout not stated": lambda row: bool(row["tp"]),
    "batch or sequence not stated": lambda row: bool(row["global_batch"] and row["seq"]),
    # a context cut in parts: one sequence at a time
    "micro-batch not stated": lambda row: bool(row["micro_batch"] or number(row, "cp") > 1),
    "recomputing unknown": lambda row: row["recompute"] in RECOMPUTED,
    "virtual stages not stated": _virtual,
    "layout or batch does not multiply": _whole,
}
