"""Rows of published tables: what is read, by which rule, and what is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from llmlab.cost import reading
from llmlab.cost.published import Rows, check_rows, read_rows
from llmlab.cost.stack import Stack
from llmlab.hardware.facts import read_facts

PLAIN = dict.fromkeys(reading.COLUMNS, "") | {
    "row_id": "T-1", "table": "a paper, table 1", "hardware": "H100-SXM-80GB", "gpus": "64", "gpus_per_node": "8",
    "model": "llama3 70b", "layers": "80", "hidden": "8192", "ffn": "28672", "heads": "64", "kv_heads": "8",
    "seq": "8192", "vocab": "128256", "global_batch": "128", "micro_batch": "1", "tp": "4", "pp": "4", "vp": "5",
    "cp": "2", "precision": "bf16", "framework": "NeMo 24.07", "status": "ok", "step_time_s": "14.7", "score": "time",
}  # fmt: skip


def row(**changed: Any) -> dict[str, str]:
    return PLAIN | {name: str(value) for name, value in changed.items()}


def test_a_row_that_says_everything_is_read():
    assert reading.refusal(PLAIN) == "" and reading.missing(PLAIN) == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"vp": ""}, "virtual stages not stated"),
        ({"gpus": 60}, "layout or batch does not multiply"),
        ({"global_batch": 129}, "layout or batch does not multiply"),
        ({"framework": "Megatron-LM 1F1B-X"}, "software unknown"),
        ({"model": "Llama3 70B LoRA"}, "model has parts that are not modelled"),
        ({"model": "Nemotron_3_Nano"}, "model has parts that are not modelled"),
        ({"recompute": "some policy"}, "recomputing unknown"),
        ({"micro_batch": "", "cp": 1}, "micro-batch not stated"),
        ({"hardware": "a machine"}, "hardware unknown"),
        ({"score": "shape"}, "published for its trend"),
    ],
)
def test_what_is_not_stated_is_refused_by_name(changed, why):
    assert reading.refusal(row(**changed)) == why
    assert why in reading.missing(row(**changed))


def test_a_pipeline_that_its_software_never_interleaves_needs_no_virtual_stages():
    assert reading.refusal(row(vp="", framework="Megatron-DeepSpeed", cp=1)) == ""


@pytest.mark.parametrize(
    ("framework", "schedule"),
    [("1F1B", "1f1b"), ("ZB-1p", "zb_h1"), ("ZB-2p", "zb_2p"), ("1F1B-I", "interleaved")],
)
def test_a_schedule_is_in_its_softwares_whole_name(framework, schedule):
    named = row(framework=f"Megatron-LM {framework}", hardware="A100, RoCE between nodes", cp=1, vp=1)
    facts = reading.software(named)
    assert facts is not None and reading.layout(named, facts)["schedule"] == schedule


def test_a_release_is_read_from_a_softwares_name():
    for text, name, release in (
        ("Megatron-Bridge 26.04.01 NeMo Container", "Megatron-Bridge", "26.04.01"),
        ("NeMo Framework 23.07", "NeMo Framework", "23.07"),
        ("InternEvo", "InternEvo", ""),
    ):
        facts = reading.software(row(framework=text))
        assert facts is not None and (facts["framework"], facts["release"]) == (name, release)


def test_the_same_name_is_another_software_on_other_hardware():
    stacks = {
        hardware: (reading.software(row(framework="Megatron-LM", hardware=hardware)) or {})["stack"]
        for hardware in ("A100-SXM-80GB (Selene)", "H100-SXM-80GB", "GB200")
    }
    assert list(stacks.values()) == ["megatron-2022", "nemo", "nemo"]


def test_fully_sharded_is_not_sharded_gradients():
    facts = reading.software(row(framework="llm-foundry FSDP SHARD_GRAD_OP"))
    assert facts is not None and facts["zero"] == "2"


def test_data_parallel_ranks_are_those_that_the_devices_leave():
    """Some tables print dp without the experts' axis."""
    assert reading.degrees(row(dp=1, ep=2)) == (2, 4, 4, 2)


def test_minimal_recomputing_is_not_full():
    assert reading.RECOMPUTED["minimal"] == "selective" and reading.RECOMPUTED["full"] == "full"


def test_policies_of_jax_keep_the_products_they_name():
    assert reading.recomputing(row(recompute="save_qkv_proj"), {"selective": ""}) == ("full", ["q", "k", "v"])
    assert reading.recomputing(row(recompute="full"), {"selective": ""}) == ("full", [])


def test_selective_is_what_a_software_means_by_it():
    own = reading.software(row(framework="torchtitan FSDP2"))
    assert own is not None
    kind, kept = reading.recomputing(row(recompute="selective"), own)
    assert kind == "full" and "attention" in kept and "k" not in kept  # every other product is computed again
    assert reading.recomputing(row(recompute="selective"), {"selective": ""}) == ("selective", [])


def test_nvl72_is_one_domain_whatever_a_tray_holds():
    on = reading.cluster_of(row(hardware="GB200", gpus_per_node=4))
    assert on is not None and on.devices_per_node == 72
    on = reading.cluster_of(row(hardware="B200", gpus_per_node=4))
    assert on is not None and on.devices_per_node == 4


@pytest.mark.parametrize(
    ("text", "precision"),
    [("fp8-cs (fp8-mx)", "fp8"), ("fp8-mx", "mxfp8"), ("nvfp4", "nvfp4"), ("", "bf16")],
)
def test_a_precision_is_read_as_stated(text, precision):
    assert reading.precision(row(precision=text)) == precision


def test_megatron_bridge_counts_the_half_of_attention_that_is_not_masked():
    c = reading.model(PLAIN)
    text = {"step_time_s": "", "tflops_per_gpu": "700", "tflops_def": "model"}
    whole = reading.seconds(row(**text), c, 10**6)
    half = reading.seconds(row(**text, framework="Megatron-Bridge 25.11 NeMo Container"), c, 10**6)
    core = 6 * 10**6 * 80 * 2 * 8192 * 8192 / (700e12 * 64)
    assert whole is not None and half is not None and whole - half == pytest.approx(core / 2)


def test_sequences_of_jax_are_counted_by_device():
    on = {"hardware": "TPU v5e", "gpus": 256, "gpus_per_node": "", "pp": 1, "vp": "", "cp": 1, "tp": 16}
    spread = row(**on, framework="MaxText (JAX)", global_batch=256, extra="slices=1;chips_per_slice=256")
    facts = reading.software(spread)
    assert facts is not None and reading.layout(spread, facts)["microbatches"] == 1


def test_copies_are_sharded_within_a_slice():
    two = row(hardware="TPU v5e", tp=1, extra="slices=2;chips_per_slice=256")
    on = reading.cluster_of(two)
    assert on is not None and reading.sharers(two, on, {}) == 256
    assert reading.sharers(row(hardware="TPU v5e", tp=1, extra="slices=1;chips_per_slice=256"), on, {}) == 0


def test_counts_as_wide_as_a_cluster_do_not_overflow():
    """A step of 10^13 parameters on sequences of a million tokens passes 2^63 many times over, in whole numbers."""
    big = read_rows("dgxc_recipes")[0][0]
    config = big.config | {"n_layer": 512, "d_model": 131072, "n_head": 1024, "head_dim": 128, "d_ff": 524288}
    wide = dataclasses.replace(big, config=config, seq=2**20, layout=big.layout | {"microbatches": 4096})
    found = Rows([wide]).predictions({"typical": Stack()})[0][1]
    exact = {**config, "n_kv_head": config["n_kv_head"]}
    mlp = 3 * exact["d_model"] * exact["d_ff"]
    q, kv = exact["n_head"] * exact["head_dim"], exact["n_kv_head"] * exact["head_dim"]
    tokens = 2**20 * 4096 * wide.layout["dp"] * wide.micro_batch
    layer = 2 * tokens * (2 * exact["d_model"] * (q + kv) + mlp) + 4 * tokens * 2**20 * q
    flops = 3 * (exact["n_layer"] * layer + 2 * tokens * exact["vocab_size"] * exact["d_model"])
    assert flops > 2**63 and np.allclose(found.model_flops, float(flops), rtol=1e-9)


def test_every_published_row_is_read_or_refused_by_a_named_rule():
    for table in ("megatron_bridge", "nemo", "internevo", "papers_misc", "megatron_readme_2020_2021"):
        read, refused = read_rows(table)
        assert len(read) + sum(refused.values()) == len(read_facts("published", f"{table}.csv"))
        assert set(refused) <= set(reading.RULES)


def test_a_contributed_line_is_told_what_it_lacks(tmp_path):
    import csv

    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(PLAIN))
        writer.writeheader()
        writer.writerows([PLAIN, row(row_id="T-2", vp="", step_time_s="")])
    found = check_rows(path)
    assert found["T-1"] == []
    assert found["T-2"] == [
        "virtual stages not stated",
        "nothing measured: step_time_s, tokens_per_s_per_gpu, tflops_per_gpu or memory_gb",
    ]
    path.write_text("row_id,model\nT-3,mine\n")
    assert "no column 'hardware'" in check_rows(path)["T-3"]
