"""Each mode's threshold, against the mode itself on simulated ranks: below it messages are waited for, above hidden.

On `counted_only` clusters, where only what the inequality counts takes time, the crossing is where the inequality says;
with everything priced it lies within a factor of two.
"""

from __future__ import annotations

import pytest
import torch

import llmlab as lab
from llmlab.cost.thresholds import THRESHOLDS, counted_only, exchanging, gathering, threshold
from llmlab.parallel.expert import expert_parallel
from llmlab.parallel.pipeline import pipeline_parallel
from llmlab.parallel.ring import attend_ring
from llmlab.parallel.schedules import make_schedule
from llmlab.parallel.tensor import tensor_parallel
from llmlab.parallel.timetable import timetable
from llmlab.parallel.zero import zero

H100 = lab.hardware.cluster("h100")
APART = lab.hardware.cluster("h100", devices_per_node=1)
D, SEQ = 4096, 128
# the share of the messages that has nothing to hide behind, however large the size
ENDS = {
    "data": 1 / 24,  # the last large gradient to be made, 4 D D of 8 blocks of 12 D D
    "zero3": 3 / 24,  # the first block's weights, the last ones' again in backward, the first block's gradients
    "context": 1 / 15,  # the gradients' last hop home: 7 hops of keys and values, 8 of gradients, all of a size at most
}
SIZES = {"vocab_size": 256, "d_model": D, "n_head": 32, "bias": False, "dtype": torch.bfloat16, "norm": "rmsnorm"}


def transformer(world, n_layer):
    config = lab.Config(n_layer=n_layer, max_seq=4096, position="rotary", **SIZES)
    with torch.device("meta"):
        return lab.Transformer(config).to(world.device)


def data_step(world, tokens):
    model = lab.data_parallel(transformer(world, 8), world, init_sync=False)
    ids = torch.zeros(tokens // SEQ, SEQ, dtype=torch.long, device=world.device)
    model.loss(ids, ids).backward()


def zero3_step(world, tokens):
    model = transformer(world, 8)
    zero(model, lambda parameters: lab.optim.SGD(parameters, lr=0.1), world, stage=3)
    ids = torch.zeros(tokens // SEQ, SEQ, dtype=torch.long, device=world.device)
    model.loss(ids, ids).backward()


def mlp_step(world, d_ff, split, n_expert=0):
    config = lab.Config(n_layer=1, max_seq=4096, d_ff=d_ff, n_expert=n_expert, n_expert_active=1, **SIZES)
    with torch.device("meta"):
        model = lab.Transformer(config)
    mlp = split(model, world).blocks[0].mlp.to(world.device)
    x = torch.zeros(1, 4096, D, dtype=torch.bfloat16, device=world.device, requires_grad=True)
    mlp(x).sum().backward()


def tensor_step(world, columns):
    mlp_step(world, columns * world.size, tensor_parallel)


def expert_step(world, d_ff):
    mlp_step(world, d_ff, expert_parallel, n_expert=world.size)


def ring_step(world, tokens):
    q, k, v = (
        torch.zeros(1, 32, tokens, 128, dtype=torch.bfloat16, device=world.device, requires_grad=True) for _ in range(3)
    )
    attend_ring(q, k, v, causal=True, group=world, order="zigzag").sum().backward()


def pipeline_step(world, microbatches):
    pipeline = pipeline_parallel(transformer(world, 2 * world.size), world, "1f1b", microbatches)
    ids = torch.zeros(microbatches * 4096 // SEQ, SEQ, dtype=torch.long, device=world.device)
    pipeline.forward_backward(ids, ids)


STEPS = {  # by mode: the worker, in what steps its size goes, where it runs
    "data": (data_step, SEQ, H100),
    "zero3": (zero3_step, SEQ, H100),
    "tensor": (tensor_step, 16, H100),
    "context": (ring_step, 32, H100),
    "expert": (expert_step, 16, APART),
}


def simulated(mode, times, counted=True):
    """Seconds of computing, of messages, and of messages in which nothing is computed, at `times` the threshold."""
    step, grain, on = STEPS[mode]
    size = round(times * threshold(mode, on, 8).least / grain) * grain
    on = counted_only(on) if counted else on
    fold = () if mode == "context" else ("world",)
    trace = lab.Simulator(8, cluster=on, numerics=False, fold=fold).run(step, size).trace
    return trace.busy(0), trace.busy(0, "comm"), trace.exposed(0)


@pytest.mark.parametrize("mode", ENDS)
def test_messages_hide_from_the_threshold_on(mode):
    _, sent, waited = simulated(mode, 1.1)
    assert waited <= 1.02 * ENDS[mode] * sent  # 2%: embedding, norms
    _, sent, waited = simulated(mode, 0.85)
    assert waited >= (ENDS[mode] + 0.05) * sent


@pytest.mark.parametrize("mode", ["tensor", "expert"])
def test_computing_outweighs_the_messages_from_the_threshold_on(mode):
    for times in (0.9, 1.1):
        computing, sent, waited = simulated(mode, times)
        assert waited == pytest.approx(sent) and computing / sent == pytest.approx(times, rel=0.01)


def test_a_pipeline_computes_longer_than_it_waits_from_the_threshold_on():
    limit = threshold("pipeline", APART, 4, blocks=2)
    assert 3 < limit.least < 4
    for microbatches in (3, 4):
        run = lab.Simulator(4, cluster=counted_only(APART), numerics=False).run(pipeline_step, microbatches)
        computed = run.trace.busy(0)
        assert computed == pytest.approx(limit.computing(microbatches), rel=0.02)  # attention and logits
        assert (run.seconds - computed > computed) == (microbatches < limit.least)
        assert run.seconds - computed == pytest.approx(limit.against(microbatches), rel=0.02)


@pytest.mark.parametrize("mode", STEPS)
def test_with_everything_priced_the_crossing_lies_within_a_factor_of_two(mode):
    below, above = (simulated(mode, times, counted=False) for times in (0.5, 2))
    if mode in ENDS:
        assert below[2] > 0.1 * below[1] and below[2] > 1.5 * above[2] * below[1] / above[1]
    else:
        assert below[0] < below[1] and above[0] > above[1]


def test_the_pipelines_messages_are_those_of_the_drawn_schedule():
    """In units of a microbatch: forward 1, backward 2, and a hop."""
    for ranks in (2, 4, 8):
        limit = threshold("pipeline", APART, ranks)
        hop = 3 * (2 * 4096 * D / 45e9) / limit.computing(1)
        for rounds in (1, 2, 5):
            slots = timetable(make_schedule("1f1b", ranks, ranks * rounds), hop=hop)
            drawn = max(slot.stop for slot in slots) - 3 * ranks * rounds
            assert drawn == pytest.approx(3 * limit.against(ranks * rounds) / limit.computing(1), rel=1e-9)


@pytest.mark.parametrize("name", ["h100", "a100", "rtx4090", "tpu-v5p", "laptop"])
@pytest.mark.parametrize("mode", THRESHOLDS)
def test_at_the_threshold_both_take_as_long(mode, name):
    for ranks in (2, 8, 64):
        limit = threshold(mode, name, ranks)
        assert limit.computing(limit.least) == pytest.approx(limit.against(limit.least), rel=1e-9)
        assert limit.computing(2 * limit.least) > limit.against(2 * limit.least)


def test_the_figures_of_one_node_of_h100s_by_hand():
    R, A, W = 0.73 * 989e12, 0.7 * 989e12, 0.73 * 450e9
    for mode in ("data", "zero3"):
        assert threshold(mode, "h100", 8).least == pytest.approx(2 * R * 7 / (2 * 8 * W))
    for mode in ("tensor", "expert"):
        assert threshold(mode, "h100", 8).least == pytest.approx(2 * R * 7 / (3 * 8 * W))
        assert threshold(mode, "h100", 8, matrices=3).least == pytest.approx(4 * R * 7 / (9 * 8 * W))
    assert threshold("context", "h100", 8).least == pytest.approx((2 + 4) * A / (5 * W))
    assert threshold("context", "h100", 8, number_bytes=4).least == pytest.approx(4 * A / (2 * W))
    assert threshold("context", "h100", 8, queries_per_key=4).least == pytest.approx(6 * A / (20 * W))


def test_across_nodes_each_rank_sends_its_share_through_its_own_adapter():
    near, far = 0.73 * 450e9, 0.9 * 50e9
    assert gathering(H100, 16) == pytest.approx(max(7 / 8 / near, 1 / 2 / 8 / far))
    assert exchanging(H100, 16) == pytest.approx(max(7 / 16 / near, 8 / 16 / far))
    assert gathering(APART, 4) == pytest.approx(3 / 4 / far)


def test_where_a_message_takes_longer_than_a_microbatch_no_pipeline_pays():
    slow = lab.hardware.cluster("h100", devices_per_node=1, inter="internet")
    assert threshold("pipeline", slow, 8).least == float("inf")


def test_a_group_that_fills_a_node_in_part_is_refused():
    with pytest.raises(ValueError, match="fill nodes of 8; got 12"):
        threshold("data", "h100", 12)
    with pytest.raises(ValueError, match="ranks"):
        threshold("tensor", "h100", 1)
    with pytest.raises(ValueError, match="mode"):
        threshold("magic")
