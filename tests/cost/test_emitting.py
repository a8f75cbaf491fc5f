"""A planned layout as other software's configuration: read back it is the same layout; what has no word is refused."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module

import pytest

from llmlab.cost import emit, plan
from llmlab.cost.candidates import Workload
from llmlab.cost.emitting import SOFTWARE, deepspeed, megatron, torchtitan
from llmlab.cost.models import find_sizes
from llmlab.cost.planning import price_layout
from llmlab.hardware import cluster
from llmlab.parallel.layout import Layout

# The documented keys, by their sources: what is written must be among them.
TORCHTITAN = {  # torchtitan 0.3.0, torchtitan/config/configs.py: TrainingConfig and ParallelismConfig
    "training": {"local_batch_size", "global_batch_size", "seq_len", "max_norm", "steps", "dtype"},
    "parallelism": {
        "data_parallel_replicate_degree", "data_parallel_shard_degree", "fsdp_reshard_after_forward",
        "tensor_parallel_degree", "enable_sequence_parallel", "pipeline_parallel_degree",
        "pipeline_parallel_first_stage_less_layers", "pipeline_parallel_last_stage_less_layers",
        "pipeline_parallel_layers_per_stage", "pipeline_parallel_schedule", "pipeline_parallel_microbatch_size",
        "context_parallel_degree", "expert_parallel_degree",
    },
}  # fmt: skip
MEGATRON = {  # Megatron-LM core_v0.16, megatron/training/arguments.py: True where a value follows
    "tensor-model-parallel-size": True, "pipeline-model-parallel-size": True, "context-parallel-size": True,
    "expert-model-parallel-size": True, "num-virtual-stages-per-pipeline-rank": True, "cp-comm-type": True,
    "sequence-parallel": False, "micro-batch-size": True, "global-batch-size": True, "seq-length": True,
    "use-distributed-optimizer": False, "overlap-grad-reduce": False, "overlap-param-gather": False,
    "use-megatron-fsdp": False, "data-parallel-sharding-strategy": True, "recompute-granularity": True,
    "recompute-method": True, "recompute-num-layers": True, "bf16": False, "fp16": False, "fp8-format": True,
    "fp8-recipe": True, "fp4-format": True, "num-layers": True, "hidden-size": True, "num-attention-heads": True,
    "ffn-hidden-size": True, "max-position-embeddings": True, "vocab-size": True, "normalization": True,
    "swiglu": False, "disable-bias-linear": False, "position-embedding-type": True,
    "untie-embeddings-and-output-weights": False, "kv-channels": True, "group-query-attention": False,
    "num-query-groups": True, "multi-latent-attention": False, "q-lora-rank": True, "kv-lora-rank": True,
    "qk-head-dim": True, "qk-pos-emb-head-dim": True, "v-head-dim": True, "num-experts": True,
    "moe-router-topk": True, "moe-ffn-hidden-size": True, "moe-grouped-gemm": False,
    "moe-shared-expert-intermediate-size": True, "moe-layer-freq": True,
}  # fmt: skip
DEEPSPEED = {  # DeepSpeed 0.19, deepspeed/runtime/config.py and constants.py
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "zero_optimization", "bf16",
    "fp16", "tensor_parallel", "pipeline", "sequence_parallel_size", "activation_checkpointing",
}  # fmt: skip

MANY = Layout(
    dp=8, tp=4, pp=4, sequence_parallel=True, schedule="interleaved", virtual_stages=5, microbatches=16, zero=1
)
SHARDED = Layout(dp=64, zero=3, microbatches=2)


def case(layout, model="llama3-70b", recompute="none", precision="bf16", batch=128):
    asked = {"global_batch": batch, "seq": 8192, "precision": precision}
    row = price_layout(model, layout, "h100", recompute=recompute, **asked)
    return row, Workload(find_sizes(model), cluster("h100"), layout.ranks, batch, 8192, precision)


def arguments(text):
    """Flags and their values, or None; words without dashes in front are choices: ("", word)."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {
        (name[2:] if name.startswith("--") else ""): value or (None if name.startswith("--") else name)
        for name, _, value in (line.partition(" ") for line in lines)
    }


def test_torchtitan_is_told_the_layout_in_its_own_words():
    layout = dataclasses.replace(MANY, zero=2)
    flags = arguments(torchtitan(*case(layout, recompute="full")))
    assert flags.pop("") == "activation-checkpoint:full"
    for name in flags:
        section, key = name.split(".")
        assert key.removeprefix("no-") in TORCHTITAN[section]
    told = {name.split(".")[1]: value for name, value in flags.items()}
    assert told["data_parallel_shard_degree"] == "8" and told["data_parallel_replicate_degree"] == "1"
    assert told["tensor_parallel_degree"] == told["pipeline_parallel_degree"] == "4"
    assert told["pipeline_parallel_schedule"] == "Interleaved1F1B"
    assert told["pipeline_parallel_layers_per_stage"] == "4" and told["fsdp_reshard_after_forward"] == "never"
    # 16 micro-batches of one sequence on each of 8 replicas
    assert (told["local_batch_size"], told["pipeline_parallel_microbatch_size"]) == ("16", "1")
    assert (told["global_batch_size"], told["seq_len"]) == ("128", "8192")
    alone = arguments(torchtitan(*case(SHARDED)))
    # without a pipeline a local batch is what is computed at once; it accumulates up to the global one
    assert alone["training.local_batch_size"] == "1" and alone["parallelism.fsdp_reshard_after_forward"] == "always"
    assert "parallelism.no-enable_sequence_parallel" in alone


def test_megatron_is_told_the_layout_and_the_model():
    flags = arguments(megatron(*case(MANY, recompute="full")))
    for name, value in flags.items():
        assert MEGATRON[name] == (value is not None), name
    assert flags["num-virtual-stages-per-pipeline-rank"] == "5" and flags["micro-batch-size"] == "1"
    assert "sequence-parallel" in flags and "use-distributed-optimizer" in flags
    assert (flags["num-query-groups"], flags["kv-channels"], flags["num-layers"]) == ("8", "128", "80")
    assert flags["recompute-granularity"] == "full"
    sharded = arguments(megatron(*case(SHARDED)))
    assert sharded["data-parallel-sharding-strategy"] == "optim_grads_params"


def test_megatron_is_told_mixtures_and_latent_attention():
    layout = Layout(dp=32, ep=32, zero=1, microbatches=4)
    flags = arguments(megatron(*case(layout, "deepseek-v3", precision="fp8")))
    assert set(flags) <= set(MEGATRON) and flags["moe-layer-freq"] == "[0]*3+[1]*58"
    assert sum(eval(flags["moe-layer-freq"])) == 58 and flags["fp8-format"] == "hybrid" and "bf16" in flags
    assert (flags["ffn-hidden-size"], flags["moe-ffn-hidden-size"]) == ("18432", "2048")
    assert (flags["kv-lora-rank"], flags["qk-pos-emb-head-dim"], flags["v-head-dim"]) == ("512", "64", "128")
    every = arguments(megatron(*case(layout, "llama4-maverick")))
    assert eval(every["moe-layer-freq"]) == [0, 1] * 24


def test_deepspeed_is_told_batches_that_multiply():
    told = json.loads(deepspeed(*case(SHARDED, recompute="full")))
    assert set(told) <= DEEPSPEED and told["zero_optimization"]["stage"] == 3 and told["bf16"]["enabled"]
    assert told["train_batch_size"] == 64 * 2 * told["train_micro_batch_size_per_gpu"]
    ring = Layout(dp=8, tp=2, cp=4, context="ulysses", microbatches=4)
    told = json.loads(deepspeed(*case(ring)))
    assert told["sequence_parallel_size"] == 4 and told["tensor_parallel"] == {"autotp_size": 2}
    pipeline = json.loads(deepspeed(*case(dataclasses.replace(MANY, schedule="1f1b", virtual_stages=1))))
    assert pipeline["pipeline"] == {"stages": 4} and pipeline["gradient_accumulation_steps"] == 16


@pytest.mark.parametrize(
    ("write", "layout", "more", "says"),
    [
        (torchtitan, MANY, {}, "torchtitan has no word for ZeRO-1"),
        (torchtitan, Layout(dp=8, pp=4, zero=2, schedule="zb_h1", microbatches=8), {}, "no word for ZB-H1"),
        (torchtitan, SHARDED, {"precision": "fp8"}, "no word for fp8 by a flag"),
        (megatron, Layout(pp=4, schedule="gpipe", microbatches=8), {}, "Megatron-LM has no word for GPipe"),
        (megatron, Layout(pp=16, microbatches=16), {"model": "deepseek-v3"}, "stages of unequal layers"),
        (megatron, Layout(dp=8), {"model": "gemma3-27b"}, "windows in some layers"),
        (megatron, Layout(dp=8), {"model": "bloom-7.1b"}, "positions of this kind"),
        (deepspeed, dataclasses.replace(MANY, zero=2, schedule="1f1b", virtual_stages=1), {}, "inside a pipeline"),
        (deepspeed, Layout(dp=8, cp=2), {}, "DeepSpeed has no word for ring attention"),
        (deepspeed, SHARDED, {"recompute": "selective"}, "no word for selective"),
    ],
)
def test_what_a_software_has_no_word_for_is_refused(write, layout, more, says):
    with pytest.raises(ValueError, match=says):
        write(*case(layout, **more))


@pytest.fixture(scope="module")
def planned():
    return plan("llama3-8b", "h100", gpus=16, global_batch=32, seq=4096, limit=200)


@pytest.mark.parametrize("software", SOFTWARE)
def test_a_plan_says_which_of_its_layouts_is_emitted(planned, software):
    text = emit(planned, software)
    assert "of the plan" in text and "recompute" in text
    place = int(text.partition("; no. ")[2].split()[0])
    for row in planned[: place - 1]:  # those above have no words there
        with pytest.raises(ValueError, match="has no word for"):
            SOFTWARE[software](row, planned.workload)


def test_an_unknown_software_is_refused(planned):
    with pytest.raises(ValueError, match="wants software as one of 'torchtitan', 'megatron', 'deepspeed'; got 'jax'"):
        emit(planned, "jax")


# --- their own parsers, where they are installed: neither is a requirement of these tests ----------------------------


def test_torchtitans_own_parser_reads_it():
    tyro = pytest.importorskip("tyro")
    configs = pytest.importorskip("torchtitan.config.configs")
    policies = import_module("torchtitan.distributed.activation_checkpoint")

    @dataclasses.dataclass
    class Trainer:
        activation_checkpoint: policies.ActivationCheckpointingConfig
        training: configs.TrainingConfig = dataclasses.field(default_factory=configs.TrainingConfig)
        parallelism: configs.ParallelismConfig = dataclasses.field(default_factory=configs.ParallelismConfig)

    Trainer.__annotations__ |= {
        "activation_checkpoint": policies.ActivationCheckpointingConfig,
        "training": configs.TrainingConfig, "parallelism": configs.ParallelismConfig,
    }  # fmt: skip
    for layout, recompute in ((dataclasses.replace(MANY, zero=2), "full"), (SHARDED, "none"), (SHARDED, "selective")):
        text = torchtitan(*case(layout, recompute=recompute))
        read = tyro.cli(Trainer, args=text.split())
        found = read.parallelism
        assert found.data_parallel_shard_degree == layout.dp and found.tensor_parallel_degree == layout.tp
        assert found.enable_sequence_parallel == layout.sequence_parallel and read.training.seq_len == 8192
        assert (read.activation_checkpoint is None) == (recompute == "none")


def test_deepspeeds_own_parser_reads_it():
    config = pytest.importorskip("deepspeed.runtime.config")
    told = json.loads(emit(plan("llama3-8b", "h100", gpus=16, global_batch=32, seq=4096, limit=200), "deepspeed"))
    told |= {"train_batch_size": told["train_micro_batch_size_per_gpu"] * told["gradient_accumulation_steps"]}
    read = config.DeepSpeedConfig(told)  # of one rank, as no job runs
    assert read.zero_optimization_stage == told["zero_optimization"]["stage"]
    assert read.gradient_accumulation_steps == told["gradient_accumulation_steps"]
