"""The predicted step: against hand calculations, by its proportions, and its refusals."""

from __future__ import annotations

import ast
import dataclasses
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from llmlab.cost import Options, Stack, network, predict, provenance
from llmlab.cost.arrays import columns
from llmlab.cost.sizes import Sizes
from llmlab.cost.software import FUSED, LIBRARY
from llmlab.cost.stack import stack as find_stack
from llmlab.cost.step import TERMS
from llmlab.hardware import Link, cluster
from llmlab.model import Config
from llmlab.parallel.layout import Layout

GPT3 = Config(vocab_size=51200, d_model=12288, n_layer=96, n_head=96, max_seq=2048)
SMALL = Config(vocab_size=512, d_model=1024, n_layer=8, n_head=16, max_seq=1024)
EXPERTS = dataclasses.replace(SMALL, n_expert=8)
A100 = cluster("a100")
# Links that take no time: what is left is computing and waiting.
FREE = dataclasses.replace(A100, intra=Link("free", 0.0, 1e30), inter=Link("free", 0.0, 1e30))
QUIET = dataclasses.replace(FREE, device=dataclasses.replace(A100.device, launch_s=0.0, ramp_s=0.0))


def small(layout=None, on=A100, batch: int = 16, config: Config = SMALL, stack="ideal", **kwargs):
    return predict(config, layout or Layout(), on, global_batch=batch, seq=1024, stack=stack, **kwargs)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(dp=2, tp=2, pp=2, cp=2, zero=1, sequence_parallel=True, microbatches=4),
        Layout(dp=4, zero=3, microbatches=2),
        Layout(pp=4, schedule="zb_h1", microbatches=8),
    ],
)
def test_the_breakdown_adds_up(layout):
    p = small(layout)
    assert sum(p.breakdown.values()) == pytest.approx(p.seconds) and min(p.breakdown.values()) >= 0
    assert sum(p.memory.values()) == pytest.approx(p.memory_bytes)


def test_products_take_their_flops_at_the_reachable_rate():
    weights = 8 * 12 * 1024**2
    reached = A100.device.flops_per_s["bf16"] * A100.device.matmul_efficiency
    assert small(on=QUIET).breakdown["matmul"] == pytest.approx(6 * weights * 16 * 1024 / reached)


def test_utilisation_is_model_flops_over_time_and_peak():
    p = small(Layout(dp=2))
    flops = SMALL.flops_per_token(1024) * 16 * 1024
    assert p.mfu == pytest.approx(flops / p.seconds / 2 / 312e12)
    assert p.tflops_per_gpu == pytest.approx(p.mfu * 312)
    assert p.hfu == p.mfu


def test_full_recomputing_costs_a_forward_of_the_layers():
    none, full = small(on=QUIET), small(on=QUIET, recompute="full")
    layers = none.breakdown["matmul"] / 3 + none.breakdown["attention"] / 3.5
    assert full.seconds - none.seconds == pytest.approx(full.breakdown["recompute"])
    assert layers < full.breakdown["recompute"] < 1.3 * layers  # with its element-wise kernels
    assert full.hfu / full.mfu == pytest.approx(4 / 3, rel=0.05)


def test_selective_recomputing_costs_the_attention_core():
    p = small(on=QUIET, recompute="selective")
    assert p.breakdown["recompute"] == pytest.approx(p.breakdown["attention"] / 3.5)


@pytest.mark.parametrize("m", [4, 8, 16])
def test_a_pipelines_bubble_is_its_depth_over_its_micro_batches(m):
    logits_free = dataclasses.replace(SMALL, vocab_size=1)
    p = small(Layout(pp=4, microbatches=m), on=QUIET, config=logits_free)
    work = p.seconds - p.breakdown["bubble"] - p.breakdown["optimizer"]
    assert p.breakdown["bubble"] / work == pytest.approx(3 / m, rel=1e-2)  # the padded columns of logits are left


def test_virtual_stages_divide_the_bubble_and_zero_bubble_fills_most_of_it():
    def bubble(without=(), **how) -> float:
        return small(Layout(pp=4, microbatches=8, **how), on=QUIET, without=without).breakdown["bubble"]

    assert bubble(schedule="interleaved", virtual_stages=2) == pytest.approx(bubble() / 2)
    assert bubble(schedule="zb_h1") < 0.65 * bubble()
    alike = ("attention", "elementwise", "logits")  # without them, forward and both gradients take alike
    assert bubble(alike, schedule="zb_h1") == pytest.approx(bubble(alike) / 3)
    assert bubble(schedule="gpipe") == bubble()
    assert bubble(schedule="zb_2p") == 0
    # DeepSeek-V3's table 2, (p / 2 - 1) (F + B + B - 3 W) with F = W and B = 2 W: 2, of 1F1B's (p - 1) (F + B) = 9
    assert bubble(alike, schedule="dualpipe") == pytest.approx(2 / 9 * bubble(alike))


def test_zero_bubble_fills_less_with_fewer_micro_batches_than_stages():
    def bubble(m: int, **how) -> float:
        layout = Layout(pp=4, microbatches=m, **how)
        return small(layout, on=QUIET, without=("attention", "elementwise", "logits")).breakdown["bubble"]

    for m in (1, 2, 4, 8):  # with F = B = W: of 3 (F + B + W), W and as many W as have come back fall away
        left = 1 - (3 + min(m, 4) - 1) / 9
        assert bubble(m, schedule="zb_h1") == pytest.approx(left * bubble(m))


def test_the_logits_make_the_last_stage_the_slowest():
    wide = dataclasses.replace(SMALL, vocab_size=50_000)
    p = small(Layout(pp=8, microbatches=16), on=QUIET, config=wide)
    assert p.breakdown["logits"] > 0
    uneven = small(Layout(pp=7, microbatches=16), on=QUIET)  # a middle stage has two layers, the last has one
    assert uneven.breakdown["logits"] == 0
    two = small(Layout(pp=2, microbatches=16), on=QUIET, config=dataclasses.replace(SMALL, n_layer=7))
    assert two.breakdown["logits"] == 0  # the first has four layers, the last three
    assert uneven.breakdown["matmul"] == pytest.approx(
        2 / 8 * small(Layout(microbatches=16), on=QUIET).breakdown["matmul"]
    )


def test_gradients_hide_behind_the_last_backward_and_show_when_told_not_to():
    layout = Layout(dp=8)
    hidden, shown = small(layout), small(layout, stack=Stack(overlap_gradients=False))
    params = 8 * 12 * 1024**2 + (512 + 1024) * 1024  # tokens and positions
    ring = 2 * (7 / 8 * 2 * params / (300e9 * A100.intra.efficiency) + 3 * A100.intra.latency_s)
    assert hidden.breakdown["data_parallel"] == 0
    assert shown.breakdown["data_parallel"] == pytest.approx(ring)


def test_over_wifi_eight_gpus_lose_to_one():
    wifi = cluster("h100", inter="wifi", devices_per_node=1)
    assert small(Layout(dp=8), on=wifi).seconds > small(on=wifi).seconds
    assert small(Layout(dp=8), on="h100").seconds < small(on="h100").seconds / 4


def test_tensor_parallel_traffic_is_four_all_reduces_a_layer():
    p = small(Layout(tp=8), recompute="none")
    one = 2 * (7 / 8 * 2 * 16 * 1024 * 1024 / (300e9 * A100.intra.efficiency) + 3 * A100.intra.latency_s)
    assert p.breakdown["tensor_parallel"] == pytest.approx(8 * 4 * one)


def test_sequence_parallelism_splits_the_elementwise_work_and_sends_no_more():
    plain, split = small(Layout(tp=8)), small(Layout(tp=8, sequence_parallel=True))
    assert split.breakdown["elementwise"] < plain.breakdown["elementwise"] / 2
    assert split.breakdown["tensor_parallel"] == plain.breakdown["tensor_parallel"]


def test_zero_3_gathers_in_every_micro_batch():
    slow = dataclasses.replace(QUIET, inter=Link("slow", 0.0, 1e8), intra=Link("slow", 0.0, 1e8))
    once, twice = (small(Layout(dp=8, zero=3, microbatches=m), on=slow).breakdown["data_parallel"] for m in (1, 2))
    assert twice == pytest.approx(2 * once, rel=0.05)  # less what computing hides
    assert once > 1.4 * small(Layout(dp=8, microbatches=1), on=slow).breakdown["data_parallel"]


def test_the_optimizer_is_sharded_under_zero():
    plain, sharded = (small(Layout(dp=8, zero=z), on=QUIET).breakdown["optimizer"] for z in (0, 1))
    assert plain == pytest.approx(8 * sharded)


def test_a_slow_host_sets_a_floor_under_every_layer():
    on = dataclasses.replace(QUIET, device=dataclasses.replace(QUIET.device, launch_s=1e-3 / 15))  # 1 ms a layer
    fast, slow = small(on=QUIET, batch=1), small(on=on, batch=1)
    assert slow.seconds - fast.seconds == pytest.approx(slow.breakdown["host"])
    assert slow.seconds > 8 * 3e-3 and fast.breakdown["host"] == 0
    assert small(on=on, batch=256).breakdown["host"] == 0
    assert small(on=on, batch=1, stack=Stack(host=2.0)).breakdown["host"] > 2 * slow.breakdown["host"]


def test_a_token_pays_for_its_active_experts_only():
    dense, experts = small(on=QUIET), small(on=QUIET, config=EXPERTS)
    attention = 4 * 1024**2
    mlp = 8 * 1024**2
    assert experts.breakdown["matmul"] / dense.breakdown["matmul"] == pytest.approx(
        (attention + 2 * mlp) / (attention + mlp)
    )
    assert experts.memory["parameters"] > 5 * dense.memory["parameters"]
    assert small(Layout(dp=4, ep=4), config=EXPERTS).breakdown["expert_parallel"] > 0


def test_context_parallelism_shows_what_attention_does_not_hide():
    slow = dataclasses.replace(QUIET, intra=Link("slow", 0.0, 1e8))
    hidden, shown = small(Layout(cp=4), on=QUIET), small(Layout(cp=4), on=slow)
    # what every step but the first adds up is not hidden, and takes no network
    assert 0 < hidden.breakdown["context_parallel"] < 0.1 * hidden.seconds
    assert shown.breakdown["context_parallel"] > 2 * hidden.breakdown["context_parallel"]


def test_175_billion_parameters_do_not_fit_on_one_gpu_and_fit_on_64():
    alone = predict(GPT3, Layout(), "a100", global_batch=64, seq=2048, recompute="full", stack="ideal")
    assert not alone.fits and alone.verdict == "does not fit" and alone.memory_bytes > 30 * 80e9
    laid_out = Layout(tp=8, pp=8, microbatches=64, sequence_parallel=True)
    together = predict(GPT3, laid_out, "a100", global_batch=64, seq=2048, recompute="selective", stack="ideal")
    assert together.fits and 0.4 < together.mfu < 0.6
    assert together.gpu_hours(1e9) == pytest.approx(64 * 1e9 / together.tokens_per_s / 3600)


def test_a_layout_close_to_the_memory_is_marginal():
    p = small()
    tight = dataclasses.replace(A100, device=dataclasses.replace(A100.device, memory_bytes=int(p.memory_bytes / 0.95)))
    assert small(on=tight).verdict == "marginal" and small(on=tight).fits
    assert p.verdict == "fits"


@pytest.mark.parametrize(
    "wrong, says",
    [
        (
            {"precision": "int4"},
            "precision as one of 'nvfp4', 'mxfp8', 'fp8', 'bf16', 'fp16', 'fp32', 'fp64'; got 'int4'",
        ),
        ({"recompute": "some"}, "recompute as one of 'none', 'selective', 'full'; got 'some'"),
        ({"layout": Layout(dp=3)}, "batch of 16 does not split over dp=3"),
        ({"on": "a1000"}, "did you mean 'a100'"),
        ({"stack": "megatron-2020"}, "did you mean 'megatron-2022'"),
        ({"without": ("bubbles",)}, "without as one of .*; got 'bubbles'"),
    ],
)
def test_what_cannot_be_predicted_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        small(**wrong)


LAYOUTS = [
    Layout(),
    Layout(dp=2, tp=2, pp=2, cp=2, zero=1, sequence_parallel=True, microbatches=4),
    Layout(dp=4, zero=3, microbatches=2),
    Layout(dp=16, zero=2),
    Layout(pp=4, schedule="zb_h1", microbatches=8),
    Layout(pp=2, schedule="interleaved", virtual_stages=2, microbatches=4),
    Layout(pp=4, schedule="gpipe", microbatches=2),
    Layout(dp=4, ep=2, tp=2),
]


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_many_layouts_at_once_are_each_predicted_as_alone(recompute):
    together = small(LAYOUTS, config=EXPERTS, recompute=recompute, stack="typical")
    for i, layout in enumerate(LAYOUTS):
        alone = small(layout, config=EXPERTS, recompute=recompute, stack="typical")
        assert together.seconds[i] == pytest.approx(alone.seconds, rel=1e-12)
        assert together.memory_bytes[i] == pytest.approx(alone.memory_bytes, rel=1e-12)
        assert together.verdict[i] == alone.verdict and bool(together.fits[i]) == alone.fits


def test_a_list_of_recomputations_goes_with_a_list_of_layouts():
    both = small([Layout(), Layout()], recompute=["none", "full"])
    assert both.seconds[1] > 1.2 * both.seconds[0] and both.memory["activations"][1] < both.memory["activations"][0] / 5


@pytest.mark.parametrize("term", TERMS)
def test_a_term_left_out_leaves_at_most_the_rest(term):
    everything = Layout(dp=2, tp=2, pp=2, cp=2, ep=2, zero=3, microbatches=2)
    slow = dataclasses.replace(A100, intra=Link("slow", 1e-4, 1e9))
    kwargs = {"on": slow, "config": EXPERTS, "recompute": "full"}
    whole, less = small(everything, **kwargs), small(everything, without=(term,), **kwargs)
    assert less.breakdown[term] == 0 or term in ("logits", "matmul", "attention", "elementwise")
    assert whole.breakdown[term] == 0 or less.seconds < whole.seconds


def test_traffic_is_hidden_or_shown_and_never_both():
    p = small(Layout(dp=8))
    shown = small(Layout(dp=8), stack=Stack(overlap_gradients=False))
    assert p.breakdown["data_parallel"] == 0 and shown.hidden["data_parallel"] == 0
    assert p.hidden["data_parallel"] == pytest.approx(shown.breakdown["data_parallel"])


def test_the_interval_holds_the_prediction_and_widens_with_the_spread():
    narrow, wide = small(stack=Stack(spread=0.1)), small(stack=Stack(spread=0.3))
    (a, b), (c, d) = narrow.interval, wide.interval
    assert c < a < narrow.seconds < b < d
    assert b / narrow.seconds == pytest.approx(narrow.seconds / a) and 0.1 < narrow.uncertainty < 0.11


def test_widths_that_matrix_units_do_not_like_are_slower():
    odd = dataclasses.replace(SMALL, d_model=1040, n_head=16, d_ff=4096)
    assert small(on=QUIET, config=odd).breakdown["matmul"] > 1.2 * small(on=QUIET).breakdown["matmul"]


def test_a_prediction_takes_milliseconds_at_most():
    layout = Layout(dp=2, tp=8, pp=4, microbatches=8)
    times = []
    for _ in range(50):
        start = time.process_time()
        predict(GPT3, layout, A100, global_batch=64, seq=2048)
        times.append(time.process_time() - start)
    assert min(times) < 20e-3  # 1 ms without the type checks that pytest switches on


def test_ten_thousand_layouts_are_one_call():
    many = columns(LAYOUTS[1:2] * 10_000)
    p = predict(SMALL, many, A100, global_batch=16, seq=1024)
    assert p.seconds.shape == p.memory_bytes.shape == (10_000,) and len(set(p.seconds)) == 1


def test_the_model_is_read_in_one_sitting():
    """The formulas of time and memory stay under 350 lines of code: no docstrings, comments, blank lines counted."""
    assert sum(map(lines_of_code, ("compute", "roofline", "network", "step", "memory"))) < 350


def lines_of_code(name: str) -> int:
    source = Path(import_module(f"llmlab.cost.{name}").__file__).read_text()
    documented = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    return sum(
        bool(text.strip()) and not text.strip().startswith("#") and number not in documented
        for number, text in enumerate(source.splitlines(), 1)
    )


def context_step(context, cp, **more):
    layout = Layout(dp=8 // cp, cp=cp, tp=4, pp=4, sequence_parallel=True, microbatches=16, context=context)
    return predict("llama3-70b", layout, "h100", global_batch=128, seq=8192, **more)


def test_context_parallelism_is_not_free_and_ulysses_hides_nothing():
    plain, ring, ulysses = context_step("ring", 1), context_step("ring", 4), context_step("ulysses", 4)
    assert plain.breakdown["context_parallel"] == 0 < ring.breakdown["context_parallel"]
    assert ring.hidden["context_parallel"] > 0 == ulysses.hidden["context_parallel"]
    assert ulysses.breakdown["context_parallel"] > ring.breakdown["context_parallel"]


def test_a_ring_adds_up_its_steps_as_counted_by_hand():
    ring = context_step("ring", 2, stack="ideal")
    on = cluster("h100")
    device = on.device
    # one step beside the first: 2 x 4096 tokens of 64 heads of 128 over tp=4, three quarters of the rows; bf16 and fp32
    q, kv = 64 * 128 / 4, 8 * 128 / 4
    moved = 0.75 * 2 * 4096 * ((2 + 8) * q + 3 * 2 * (q + 2 * kv))
    layers, microbatches = 20, 16
    seconds = layers * microbatches * moved / (device.memory_bytes_per_s * device.memory_efficiency)
    assert ring.breakdown["context_parallel"] == pytest.approx(seconds, rel=1e-6)  # its hops are all hidden


def test_options_change_what_they_say_and_nothing_else():
    layout = Layout(dp=2, tp=8, sequence_parallel=True)
    # a host would launch on behind the traffic that is not hidden
    usual = small(layout, stack="typical", without=["host"])
    hidden = small(layout, stack="typical", without=["host"], options=Options(tp_overlap=True))
    assert 0 < hidden.breakdown["tensor_parallel"] < usual.breakdown["tensor_parallel"]
    assert hidden.seconds - usual.seconds == pytest.approx(
        hidden.breakdown["tensor_parallel"] - usual.breakdown["tensor_parallel"]
    )
    full, half = (small(recompute="full", options=Options(recomputed_layers=share)) for share in (1.0, 0.5))
    assert half.breakdown["recompute"] == pytest.approx(full.breakdown["recompute"] / 2)
    none = small()
    kept = [each.memory["activations"] for each in (full, half, none)]
    assert kept[1] == pytest.approx((kept[0] + kept[2]) / 2)


def test_a_copy_for_every_node_gathers_within_it_and_holds_more():
    wide, copies = (small(Layout(dp=64, zero=3), options=Options(shard_group=n), batch=64) for n in (0, 8))
    assert copies.memory["optimizer"] == pytest.approx(8 * wide.memory["optimizer"])
    crowded = Stack(congestion=0.8)  # a ring of 8 nodes is what copies avoid in every gather
    total = [
        small(Layout(dp=64, zero=3, microbatches=8), options=Options(shard_group=n), batch=512, stack=crowded).seconds
        for n in (0, 8)
    ]
    assert total[1] < total[0]


def test_narrow_products_pay_for_their_casts_by_recipe():
    on = cluster("b200")
    said = [small(on=on, precision="fp8", options=Options(fp8_recipe=name)) for name in ("delayed", "tensorwise")]
    assert said[0].breakdown["elementwise"] < said[1].breakdown["elementwise"]
    by_row = small(on=on, precision="fp8", options=Options(fp8_recipe="rowwise"))
    assert by_row.breakdown["matmul"] > 1.2 * said[1].breakdown["matmul"]
    narrow = [small(on=on, precision=p).breakdown["matmul"] for p in ("bf16", "mxfp8", "nvfp4")]
    assert narrow[0] > 1.5 * narrow[1] > 1.5 * narrow[2]


def test_a_machine_that_was_measured_is_believed():
    slow = small(on=cluster("b200"), options=Options(matmul_tflops=1090))
    assert slow.breakdown["matmul"] == pytest.approx(small(on=cluster("b200")).breakdown["matmul"] * 0.7 * 2250 / 1090)
    with pytest.raises(ValueError, match="matmul_tflops"):
        small(on=cluster("b200"), options=Options(matmul_tflops=5000))


def test_frozen_weights_are_refused():
    with pytest.raises(ValueError, match="LoRA.*not modelled"):
        Options(trained=0.01)


def test_zero_bubbles_second_form_has_no_bubble_and_holds_twice_as_many():
    def of(schedule: str):
        layout = columns([Layout(pp=4, microbatches=16)])
        return small(dataclasses.replace(layout, schedule=np.array([schedule])), on=QUIET)

    plain, second = of("1f1b"), of("zb_2p")
    assert second.breakdown["bubble"][0] == 0 < plain.breakdown["bubble"][0]
    assert second.memory["activations"][0] == pytest.approx(7 / 4 * plain.memory["activations"][0])


def test_heads_of_odd_widths_are_not_punished_in_products_of_attention():
    unfused = Stack(fused_attention=False)
    wide, odd = (
        small(on=QUIET, stack=unfused, config=dataclasses.replace(SMALL, n_head=16, head_dim=k)) for k in (64, 96)
    )
    assert odd.breakdown["attention"] < 1.6 * wide.breakdown["attention"]


def test_tokens_travel_to_a_node_once():
    wires = Stack().wires(A100)
    ep = network.Axis(np.array([32]), np.array([1]), wires)
    assert ep.all_to_all(1e9, 8)[0] < 0.6 * ep.all_to_all(1e9)[0]
    within = network.Axis(np.array([8]), np.array([1]), wires)
    assert within.all_to_all(1e9, 8)[0] == within.all_to_all(1e9)[0]


def test_every_term_says_where_its_constant_is_from():
    known = {source.term: source for source in provenance("nemo", "h100")}
    assert known.keys() == set(TERMS) - {"bubble"}
    assert known["elementwise"].status == "FITTED" and "generation hopper" in known["elementwise"].owners
    assert known["elementwise"].value == pytest.approx(find_stack("nemo").on(cluster("h100")).memory)
    efa = {source.term: source for source in provenance("nemo", cluster("h100", network="AWS EFA"))}
    new = {source.term: source for source in provenance("typical", "mi300x")}
    assert new["attention"].status == "ASSUMED"
    assert new["attention"].uncertainty > known["attention"].uncertainty > 1
    assert efa["data_parallel"].constant == "inter"
    assert {source.status for source in provenance(Stack(name="mine"), "h100")} == {"ASSUMED"}


def test_a_gradient_is_added_up_by_a_kernel_by_its_product_or_in_a_shard():
    """Bytes for each parameter and micro-batch with fp32 gradients: 2 r, 4 r, 4 w; 4 r, 4 w less the 2 not written."""
    layouts = columns([Layout(dp=2, microbatches=4), Layout(dp=2, microbatches=4, zero=3)])
    x = Sizes(SMALL, layouts, 1, 1024, 2, 4)
    assert [*LIBRARY.accumulate(x)] == [10, 0] and [*FUSED.accumulate(x)] == [6, 0]
