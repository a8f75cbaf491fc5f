"""Memory by category, against the published figures of Korthikanti et al. 2022 and by its rules."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmlab.cost.memory import in_flight
from llmlab.cost.prediction import RECOMPUTE
from llmlab.cost.sizes import Sizes
from llmlab.cost.stack import Stack
from llmlab.hardware.facts import read_facts
from llmlab.parallel.layout import Layout

GPT3 = SimpleNamespace(
    n_layer=96, d_model=12288, n_head=96, n_kv_head=96, d_ff=4 * 12288, vocab_size=51200, max_seq=2048, mlp="gelu",
    head_dim=128,
)  # fmt: skip


def need(recompute: str = "none", config: SimpleNamespace = GPT3, fused: bool = True, **layout) -> dict[str, float]:
    x = Sizes(config, Layout(**layout), 1, 2048, 2, 2, RECOMPUTE.index(recompute))
    return Stack(fused_attention=fused).memory_needed(x)


@pytest.mark.parametrize(
    "row", read_facts("published", "activation_memory.csv"), ids=lambda r: f"{r['model']} {r['variant']}"
)
def test_memory_is_that_of_korthikanti_figure_1(row):
    pp, vp, hidden, heads = int(row["pp"]), int(row["vp"] or 1), int(row["hidden"]), int(row["heads"])
    sharp = row["variant"].startswith("sequence parallel")
    config = SimpleNamespace(
        n_layer=int(row["layers"]), d_model=hidden, n_head=heads, n_kv_head=heads, d_ff=4 * hidden, vocab_size=51200,
        max_seq=2048, mlp="gelu", dropout=0.1, head_dim=hidden / heads,
    )  # fmt: skip
    schedule = "interleaved" if vp > 1 else "1f1b"
    layout = Layout(tp=8, pp=pp, sequence_parallel=sharp, schedule=schedule, virtual_stages=vp, microbatches=8 * pp)
    x = Sizes(config, layout, int(row["micro_batch"]), 2048, 2, 4, 1 if sharp else 0)
    found = Stack(fused_attention=False).memory_needed(x)
    assert found["activations"] / 2**30 == pytest.approx(float(row["activations_gib"]), rel=1e-6)
    state = found["parameters"] + found["gradients"] + found["optimizer"]
    table = 18 * 51200 * hidden / 8  # which the figure leaves out
    assert (state - table) / 2**30 == pytest.approx(float(row["params_grads_optimizer_gib"]), rel=1e-6)


def test_sixteen_bit_training_with_adam_takes_16_bytes_a_parameter():
    found = need()
    state = found["parameters"] + found["gradients"] + found["optimizer"]
    assert state / (12 * 96 * 12288**2 + 51200 * 12288) == pytest.approx(16)


@pytest.mark.parametrize(
    "zero, parameters, gradients, optimizer", [(0, 1, 1, 1), (1, 1, 1, 8), (2, 1, 8, 8), (3, 8, 8, 8)]
)
def test_each_level_of_zero_shards_one_thing_more(zero, parameters, gradients, optimizer):
    whole, found = need(), need(dp=8, zero=zero)
    gathered = 2 * 2 * 12 * 12288**2 * (zero == 3)  # two layers at work, in 2 bytes
    assert found["parameters"] == pytest.approx(whole["parameters"] / parameters + gathered)
    assert found["gradients"] == pytest.approx(whole["gradients"] / gradients)
    assert found["optimizer"] == pytest.approx(whole["optimizer"] / optimizer)


def test_recomputing_keeps_less_and_less():
    full, selective, none = (need(r, fused=False)["activations"] for r in ("full", "selective", "none"))
    assert full < selective < none
    assert full == pytest.approx(96 * 2 * 2048 * 12288)  # each layer's input, in 2 bytes


def test_fused_attention_keeps_no_scores():
    assert need("none")["activations"] == pytest.approx(need("selective", fused=False)["activations"])


def test_a_stacks_factor_weighs_on_activations_alone():
    x = Sizes(GPT3, Layout(tp=8), 1, 2048, 2, 2)
    once, twice = Stack().memory_needed(x), Stack(activations=2.0).memory_needed(x)
    assert twice["activations"] == 2 * once["activations"] and twice["optimizer"] == once["optimizer"]


@pytest.mark.parametrize(
    "layout, stage, held",
    [
        (Layout(), 0, 1),
        (Layout(microbatches=8), 0, 1),  # accumulation: one at a time
        (Layout(pp=4, microbatches=8), 0, 4),
        (Layout(pp=4, microbatches=8), 3, 1),
        (Layout(pp=4, microbatches=2), 0, 2),
        (Layout(pp=4, microbatches=8, schedule="gpipe"), 3, 8),
        (Layout(pp=4, microbatches=8, schedule="interleaved", virtual_stages=2), 0, 4 * (1 + 3 / 8)),
        (Layout(pp=4, microbatches=8, schedule="zb_2p"), 0, 7),  # 2 p - 1
        (Layout(pp=4, microbatches=8, schedule="dualpipe"), 2, 5),  # p + 1, on every rank
    ],
)
def test_micro_batches_in_flight(layout, stage, held):
    assert in_flight(Sizes(GPT3, layout, 1, 2048, 2, 2), stage) == pytest.approx(held)


def test_dualpipe_holds_the_model_twice():
    """DeepSeek-V3's table 2: two stages' parameters on a rank."""
    once, twice = (need(pp=4, microbatches=8, schedule=name) for name in ("1f1b", "dualpipe"))
    assert twice["optimizer"] == pytest.approx(2 * once["optimizer"], rel=0.05)  # the ends have a table


def test_what_is_not_computed_again_is_kept():
    def kept(**how) -> float:
        return Stack().memory_needed(Sizes(GPT3, Layout(tp=8), 1, 2048, 2, 2, 2, **how))["activations"]

    qkv = 96 * 2 * 2048 * 3 * 12288 / 8
    assert kept(kept=3 * 12288.0) - kept() == pytest.approx(qkv)
    assert kept(kept_core=True) - kept() == pytest.approx(qkv / 3)


def test_logits_weigh_on_the_last_stage_only():
    wide = SimpleNamespace(**{**vars(GPT3), "vocab_size": 10**6})
    assert need(config=wide, pp=4, microbatches=1)["working"] == pytest.approx(2048 * 10**6 * 10)
    assert need(config=GPT3, pp=4, microbatches=8)["working"] == 0  # the first stage is the fuller one
