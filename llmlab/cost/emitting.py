"""A layout as another software's own configuration, or a ValueError where that software has no word for it.

    torchtitan   flags of its trainer, over a registered configuration     torchtitan 0.3.0, config/configs.py
    megatron     arguments of `pretrain_gpt.py`                            Megatron-LM, megatron/training/arguments.py
    deepspeed    the JSON that `deepspeed.initialize` takes                DeepSpeed 0.19, runtime/config.py

Only what a plan decides is written, and the model's sizes where the software takes them; data, learning rates and
checkpoints are the user's.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from llmlab.arguments import choice, instance
from llmlab.cost.arrays import ModelLike
from llmlab.cost.candidates import Workload
from llmlab.cost.plans import Plan, Planned, say_layout
from llmlab.parallel.layout import Layout
from llmlab.parallel.schedules import PRICED

Flags = dict[str, str | int | None]  # None: a flag that takes no value


def emit(found: Plan, software: str) -> str:
    """Write the first of a plan's layouts that a software can be told, as its configuration.

    Raises ValueError for an unknown software, and where it has no word for any of the layouts.
    """
    instance("emit", "found", found, Plan, "what lab.plan(...) gives")
    write = SOFTWARE[choice("emit", "software", software, SOFTWARE)]
    refused = ""
    for place, row in enumerate(found, 1):
        try:
            written = write(row, found.workload)
        except ValueError as error:
            refused = refused or str(error)
            continue
        said = f"{say_layout(row.layout)}, recompute {row.recompute}; no. {place} of the plan"
        skipped = f"; above it: {refused}" if refused else ""
        if software == "deepspeed":
            return json.dumps({"_comment": said + skipped, **json.loads(written)}, indent=2)
        return f"# {said}{skipped}\n{written}"
    raise ValueError(f"{software} has no word for any of the {len(found)} layouts kept: {refused}")


SPLIT = ("zb_h1", *PRICED)  # schedules that make weights' gradients apart


def torchtitan(row: Planned, work: Workload) -> str:
    """Flags to follow `--module llama3 --config llama3_70b`, which hold the model's sizes."""
    x = row.layout
    _refuse("torchtitan", {
        "ZeRO-1": x.zero == 1,
        x.schedule.upper().replace("_", "-"): x.schedule in SPLIT and x.pp > 1,
        "Ulysses": x.cp > 1 and x.context == "ulysses",
        f"{work.precision} by a flag (its converters are in the model's configuration)": work.precision != "bf16",
        "unequal virtual stages": bool(x.virtual_stages > 1 and work.config.n_layer % (x.pp * x.virtual_stages)),
    })  # fmt: skip
    micro = _micro(x, work)
    shard = x.zero >= 2
    schedule = {"1f1b": "1F1B", "gpipe": "GPipe", "interleaved": "Interleaved1F1B"}
    flags: Flags = {
        "training.seq_len": work.seq,
        "training.global_batch_size": work.global_batch,
        "training.local_batch_size": micro * x.microbatches if x.pp > 1 else micro,
        "parallelism.data_parallel_replicate_degree": 1 if shard else x.dp,
        "parallelism.data_parallel_shard_degree": x.dp if shard else 1,
        "parallelism.fsdp_reshard_after_forward": "always" if x.zero == 3 else "never",
        "parallelism.tensor_parallel_degree": x.tp,
        "parallelism.pipeline_parallel_degree": x.pp,
        "parallelism.context_parallel_degree": x.cp,
        "parallelism.expert_parallel_degree": x.ep,
    }
    if not x.sequence_parallel:
        flags["parallelism.no-enable_sequence_parallel"] = None
    if x.pp > 1:
        flags["parallelism.pipeline_parallel_schedule"] = schedule[x.schedule]
        flags["parallelism.pipeline_parallel_microbatch_size"] = micro
    if x.virtual_stages > 1:
        flags["parallelism.pipeline_parallel_layers_per_stage"] = int(work.config.n_layer) // (x.pp * x.virtual_stages)
        flags["parallelism.pipeline_parallel_first_stage_less_layers"] = 0
        flags["parallelism.pipeline_parallel_last_stage_less_layers"] = 0
    # a choice among classes comes last, as a word of its own
    return _lines(flags) + f"activation-checkpoint:{row.recompute}\n"


def megatron(row: Planned, work: Workload) -> str:
    """Arguments of `pretrain_gpt.py`, the model's sizes among them."""
    x, c = row.layout, work.config
    _refuse("Megatron-LM", {
        "GPipe": x.schedule == "gpipe" and x.pp > 1,
        x.schedule.upper().replace("_", "-"): x.schedule in SPLIT and x.pp > 1,
        "stages of unequal layers": bool(c.n_layer % (x.pp * x.virtual_stages)),
        "positions of this kind": getattr(c, "position", "rotary") not in ("rotary", "learned"),
        "fp32 or fp64 training by a flag": work.precision in ("fp32", "fp64"),
    })  # fmt: skip
    flags: Flags = {
        "tensor-model-parallel-size": x.tp,
        "pipeline-model-parallel-size": x.pp,
        "context-parallel-size": x.cp,
        "micro-batch-size": _micro(x, work),
        "global-batch-size": work.global_batch,
        "seq-length": work.seq,
    }
    if x.sequence_parallel:
        flags["sequence-parallel"] = None
    if x.virtual_stages > 1:
        flags["num-virtual-stages-per-pipeline-rank"] = x.virtual_stages
    if x.cp > 1:
        flags["cp-comm-type"] = {"ring": "p2p", "ulysses": "a2a"}[x.context]
    if x.ep > 1:
        flags["expert-model-parallel-size"] = x.ep
    flags |= MEGATRON_ZERO[x.zero] | MEGATRON_AGAIN[row.recompute] | MEGATRON_NUMBERS[work.precision]
    return _lines(flags | _megatron_model(c, work.seq))


def deepspeed(row: Planned, work: Workload) -> str:
    """What `deepspeed.initialize(config=...)` takes; recomputing is called in the model's code, with these settings."""
    x = row.layout
    _refuse("DeepSpeed", {
        "ZeRO-2 or 3 inside a pipeline": x.zero >= 2 and x.pp > 1,
        f"the {x.schedule} schedule": x.schedule != "1f1b" and x.pp > 1,
        "ring attention": x.cp > 1 and x.context == "ring",
        "expert parallelism by its configuration": x.ep > 1,
        f"{work.precision}": work.precision not in ("bf16", "fp16", "fp32"),
        "selective recomputation": row.recompute == "selective",
    })  # fmt: skip
    written: dict[str, object] = {
        "train_batch_size": work.global_batch,
        "train_micro_batch_size_per_gpu": _micro(x, work),
        "gradient_accumulation_steps": x.microbatches,
        "zero_optimization": {"stage": x.zero, "overlap_comm": True},
    }
    if work.precision != "fp32":
        written[work.precision] = {"enabled": True}
    if x.tp > 1:
        written["tensor_parallel"] = {"autotp_size": x.tp}
    if x.pp > 1:
        written["pipeline"] = {"stages": x.pp}
    if x.cp > 1:
        written["sequence_parallel_size"] = x.cp
    if row.recompute == "full":
        written["activation_checkpointing"] = {"partition_activations": x.tp > 1}
    return json.dumps(written, indent=2)


SOFTWARE: dict[str, Callable[[Planned, Workload], str]] = {
    "torchtitan": torchtitan, "megatron": megatron, "deepspeed": deepspeed,
}  # fmt: skip

# Its distributed optimizer is stage 1; the other stages are its own FSDP's.
FSDP: Flags = {"use-megatron-fsdp": None, "use-distributed-optimizer": None}
MEGATRON_ZERO: dict[int, Flags] = {
    0: {},
    1: {"use-distributed-optimizer": None, "overlap-grad-reduce": None, "overlap-param-gather": None},
    2: FSDP | {"data-parallel-sharding-strategy": "optim_grads"},
    3: FSDP | {"data-parallel-sharding-strategy": "optim_grads_params"},
}
MEGATRON_AGAIN: dict[str, Flags] = {
    "none": {},
    "selective": {"recompute-granularity": "selective"},
    "full": {"recompute-granularity": "full", "recompute-method": "uniform", "recompute-num-layers": 1},
}
MEGATRON_NUMBERS: dict[str, Flags] = {
    "bf16": {"bf16": None},
    "fp16": {"fp16": None},
    "fp8": {"bf16": None, "fp8-format": "hybrid"},
    "mxfp8": {"bf16": None, "fp8-format": "e4m3", "fp8-recipe": "mxfp8"},
    "nvfp4": {"bf16": None, "fp4-format": "e2m1"},
}


def _megatron_model(c: ModelLike, seq: int) -> Flags:
    of = {name: getattr(c, name, 0) for name in (
        "n_expert", "n_expert_active", "n_expert_shared", "n_dense", "d_ff_dense", "d_ff_shared", "expert_every",
        "q_lora_rank", "kv_lora_rank", "rope_head_dim", "v_head_dim", "window",
    )}  # fmt: skip
    if of["window"]:
        raise ValueError("Megatron-LM has no word for windows in some layers alone")
    flags: Flags = {
        "num-layers": int(c.n_layer), "hidden-size": int(c.d_model), "num-attention-heads": int(c.n_head),
        "ffn-hidden-size": int(of["d_ff_dense"] or c.d_ff), "max-position-embeddings": seq,
        "vocab-size": int(c.vocab_size),
    }  # fmt: skip
    flags |= {"normalization": "RMSNorm" if getattr(c, "norm", "") == "rmsnorm" else "LayerNorm"}
    flags |= {"swiglu": None} if c.mlp == "swiglu" else {}
    flags |= {} if getattr(c, "bias", False) else {"disable-bias-linear": None}
    rotary = getattr(c, "position", "rotary") == "rotary"
    flags |= {"position-embedding-type": "rope" if rotary else "learned_absolute"}
    flags |= {} if getattr(c, "tie_embeddings", False) else {"untie-embeddings-and-output-weights": None}
    if of["kv_lora_rank"]:
        flags |= {"multi-latent-attention": None, "kv-lora-rank": of["kv_lora_rank"], "qk-head-dim": int(c.head_dim)}
        flags |= {"q-lora-rank": of["q_lora_rank"]} if of["q_lora_rank"] else {}
        flags |= {"qk-pos-emb-head-dim": of["rope_head_dim"], "v-head-dim": of["v_head_dim"] or int(c.head_dim)}
    else:
        flags |= {"kv-channels": int(c.head_dim)}
        if c.n_kv_head < c.n_head:
            flags |= {"group-query-attention": None, "num-query-groups": int(c.n_kv_head)}
    if of["n_expert"]:
        flags |= {"num-experts": of["n_expert"], "moe-router-topk": of["n_expert_active"]}
        flags |= {"moe-ffn-hidden-size": int(c.d_ff), "moe-grouped-gemm": None}
        shared = of["n_expert_shared"] * (of["d_ff_shared"] or int(c.d_ff))
        flags |= {"moe-shared-expert-intermediate-size": shared} if shared else {}
        flags |= _moe_layers(int(c.n_layer), of["n_dense"], of["expert_every"])
    return flags


def _moe_layers(layers: int, leading: int, every: int) -> Flags:
    """Which layers have experts, where not all do: every n-th, or a pattern as Python's list."""
    if leading:
        return {"moe-layer-freq": f"[0]*{leading}+[1]*{layers - leading}"}
    return {"moe-layer-freq": f"([0]*{every - 1}+[1])*{layers // every}"} if every > 1 else {}


def _micro(x: Layout, work: Workload) -> int:
    """Sequences that a replica computes at a time."""
    return work.global_batch // (x.dp * x.microbatches)


def _refuse(software: str, unknown: dict[str, bool]) -> None:
    for what, asked in unknown.items():
        if asked:
            raise ValueError(f"{software} has no word for {what}")


def _lines(flags: Flags) -> str:
    """A flag a line, to be pasted after a command, or read from a file by `$(grep -v '^#' file)`."""
    return "".join(f"--{name}\n" if value is None else f"--{name} {value}\n" for name, value in flags.items())
