"""Every layout trains as one process does: drawn layouts, planted mistakes, and what a step refuses."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

import llmlab as lab
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.model import Block
from llmlab.parallel import compose, data, gathering, step
from llmlab.parallel.compose import parallelize
from llmlab.parallel.layout import Layout
from llmlab.parallel.pipeline import Pipeline
from llmlab.parallel.placement import shard_of
from tests.parallel.comparing import numbers
from tests.parallel.layouts import (
    STEPS,
    Case,
    differing_replicas,
    draw,
    make_batch,
    make_model,
    make_optimizer,
    smaller,
    train,
    train_alone,
    worst,
)

DRAWN = int(os.environ.get("LLMLAB_LAYOUTS", "200"))  # thousands on demand: LLMLAB_LAYOUTS=5000 pytest ...
TOLERANCE = 1e-9  # of the whole norm, fp64


@pytest.mark.parametrize("seed", range(DRAWN))
def test_a_drawn_layout_trains_as_one_process(seed):
    case = draw(seed)
    results = Simulator(case.layout.ranks, kernels=False).run(train, case).results
    assert worst(train_alone(case), results) < TOLERANCE, case
    assert differing_replicas(results) == []


# --- planted mistakes: each is caught by the comparison above ---------------------------------------------------------

CONFIG = lab.Config(vocab_size=13, d_model=8, n_layer=2, n_head=2, max_seq=16, d_ff=8, dtype=torch.float64)
CASE = Case(CONFIG, Layout(), batch=4, seq=8)


def caught(**changes) -> bool:
    """Whether training this layout differs from one process, or its replicas from one another."""
    case = smaller(CASE, **changes)
    results = Simulator(case.layout.ranks, kernels=False).run(train, case).results
    return worst(train_alone(case), results) > 1e-6 or bool(differing_replicas(results))


PLANTED = {
    "data": {"dp": 2},
    "sequence": {"tp": 2, "sequence_parallel": True},
    "tied": {"pp": 2, "microbatches": 2, "clip": 0.05},
    "zero": {"dp": 2, "zero": 2},
    "tensor clip": {"tp": 2, "clip": 0.05},
    "experts": {"dp": 2, "ep": 2, "n_expert": 2, "n_expert_active": 1},
    "context": {"cp": 2},
}


@pytest.mark.parametrize("changes", PLANTED.values(), ids=PLANTED)
def test_without_a_planted_mistake_nothing_is_caught(changes):
    assert not caught(**changes)


def test_dropping_the_division_by_the_targets_is_caught(monkeypatch):
    accumulate = step.accumulate
    monkeypatch.setattr(compose, "accumulate", lambda *args, **more: accumulate(args[0], args[1], args[2] * 2, **more))
    assert caught(**PLANTED["data"])


def test_averaging_over_replicas_what_is_divided_already_is_caught(monkeypatch):
    class Averaging(compose.Replicas):
        def __init__(self, *args):
            super().__init__(*args)
            for reducer in self.reducers:
                reducer.op = "avg"

    monkeypatch.setattr(compose, "Replicas", Averaging)
    assert caught(**PLANTED["data"])


def test_skipping_one_hook_is_caught(monkeypatch):
    class Forgetful(compose.Replicas):
        def __init__(self, *args):
            super().__init__(*args)
            del self.reducers[0].buckets[-1]

    monkeypatch.setattr(compose, "Replicas", Forgetful)
    assert caught(**PLANTED["data"])


def test_swapping_two_ranks_shards_is_caught(monkeypatch):
    from llmlab.parallel import placement

    take = placement.Shard.take

    def other(self, whole):
        return whole.chunk(2, 1)[1 - self.group.rank].clone() if self.dim == 1 else take(self, whole)

    monkeypatch.setattr(placement.Shard, "take", other)
    assert caught(tp=2)


def test_forgetting_the_norm_gradients_is_caught(monkeypatch):
    monkeypatch.setattr(data, "sum_partial", lambda parameters: None)
    assert caught(**PLANTED["sequence"])


def test_a_stale_weight_is_caught(monkeypatch):
    monkeypatch.setattr(compose.ZeRO, "publish", lambda self: None)
    assert caught(**PLANTED["zero"])


def test_a_tied_table_whose_gradients_are_not_added_up_is_caught(monkeypatch):
    monkeypatch.setattr(Pipeline, "sum_tied", lambda self, owned=None: None)
    assert caught(**PLANTED["tied"])


def test_counting_a_replicated_element_more_than_once_in_the_norm_is_caught(monkeypatch):
    monkeypatch.setattr(compose, "_copies", lambda parameter, data, layout: 1)
    assert caught(**PLANTED["tensor clip"])


def test_judging_the_balance_of_experts_by_ones_own_tokens_is_caught(monkeypatch):
    monkeypatch.setattr(compose, "global_balance", lambda model, group: model)
    assert caught(**PLANTED["experts"])


def test_taking_the_wrong_tokens_of_the_sequence_is_caught(monkeypatch):
    columns = step.columns
    monkeypatch.setattr(step, "columns", lambda seq, group, context: columns(seq, group, "contiguous"))
    assert caught(**PLANTED["context"])


@pytest.mark.parametrize("layout", [Layout(dp=2), Layout(pp=2, microbatches=2)])
def test_a_model_is_gathered_in_one_message_for_each_holder(layout, monkeypatch):
    def worker(world):
        step = parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), layout, world)
        with world.span("gathering"):
            return step.state_dict()

    def gathered():
        run = Simulator(2, kernels=False).run(worker)
        (span,) = run.trace.select(rank=0, op="gathering")
        sent = [event for event in run.trace.select(rank=0, op="broadcast") if event.start >= span.start]
        return len(sent), run.results[1]

    together, weights = gathered()
    monkeypatch.setattr(gathering, "make_buckets", lambda parameters: [[each] for each in parameters])
    apart, same = gathered()
    assert together == layout.pp and apart == len(list(lab.Transformer(CONFIG).parameters()))
    assert all(torch.equal(weights[name], same[name]) for name in weights | same)


# --- on real processes, in other precisions -------------------------------------------------------------------------


REAL = {
    2: [
        {"dp": 2, "microbatches": 2}, {"tp": 2, "sequence_parallel": True}, {"cp": 2}, {"pp": 2, "microbatches": 2},
        {"dp": 2, "zero": 3, "clip": 0.05}, {"pp": 2, "schedule": "zb_h1", "microbatches": 2, "zero": 1},
        {"dp": 2, "ep": 2, "n_expert": 2}, {"cp": 2, "context": "ulysses", "recompute": "full"},
    ],
    4: [
        {"dp": 2, "tp": 2, "zero": 2}, {"pp": 2, "tp": 2, "sequence_parallel": True, "microbatches": 2},
        {"pp": 2, "schedule": "interleaved", "microbatches": 2, "dp": 2}, {"cp": 2, "dp": 2, "zero": 3},
    ],
}  # fmt: skip


@pytest.mark.parametrize("ranks", REAL)
def test_real_processes_train_as_one(ranks):
    with Processes(ranks) as live:
        for changes in REAL[ranks]:
            case = smaller(CASE, **changes)
            results = live.run(train, case).results
            assert worst(train_alone(case), results) < TOLERANCE, changes
            assert differing_replicas(results) == []


ALL_AXES = {"dp": 2, "tp": 2, "pp": 2, "cp": 2, "zero": 1, "sequence_parallel": True, "microbatches": 2}


def test_fp32_differs_from_one_process_by_rounding_only():
    case = smaller(CASE, **ALL_AXES, dtype=torch.float32)
    results = numbers(16).run(train, case).results
    # fp32 rounds by 6e-8; a gradient adds up some 32 tokens over 16 ranks in another order, and 3 steps carry it on
    assert worst(train_alone(case), results) < 6e-8 * 32 * 3


def test_bf16_computes_in_16_bits_and_adds_up_in_the_models_own():
    case = smaller(CASE, dp=2, dtype=torch.float32, precision="bf16")
    results = numbers(2).run(train, case).results
    same_parts = train_alone(smaller(case, dp=1, microbatches=2))  # the halves of the batch one after the other
    assert worst(same_parts, results) < 6e-8 * 32 * 3  # as in fp32: the halves' gradients are added up in it
    assert worst(train_alone(smaller(case, precision=None)), results) > 1e-4  # and yet it was 16 bits
    assert all(weights.dtype == torch.float32 for weights in results[0][2].values())


def overflowing(world):
    """fp16 with a scale too large for one rank's half of the batch: is the step left out everywhere?"""
    case = smaller(CASE, dp=2, dtype=torch.float32)
    scaler = lab.optim.LossScaler(init_scale=2.0**14)
    step = parallelize(
        make_model(case), make_optimizer("sgd"), case.layout, world, precision="fp16", scaler=scaler, clip=1.0
    )
    before = step.state_dict()
    if world.rank == 1:  # one element of one rank's gradient
        step.model.head.weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), torch.inf))
    step(**make_batch(case, 0))
    after = step.state_dict()
    return all(torch.equal(before[name], after[name]) for name in before), scaler.value


def test_a_step_that_overflows_on_one_rank_is_left_out_by_all():
    assert numbers(2).run(overflowing).results == [(True, 2.0**13)] * 2


def test_fp16_with_a_scaler_trains_as_fp32_to_half_precision():
    def worker(world):
        case = smaller(CASE, tp=2, dtype=torch.float32)
        scaler = lab.optim.LossScaler(init_scale=2.0**8)
        make = make_optimizer("sgd")
        step = parallelize(make_model(case), make, case.layout, world, precision="fp16", scaler=scaler)
        return torch.stack([step(**make_batch(case, i)) for i in range(STEPS)]), step.grad_dict(), step.state_dict()

    one = train_alone(smaller(CASE, dtype=torch.float32))
    assert worst(one, numbers(2).run(worker).results) < 20 * 2**-11


# --- what a step is, and what it refuses -----------------------------------------------------------------------------


def stepping(world, layout=None, options=None, **batch):
    step = parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), layout or Layout(), world, **(options or {}))
    if batch:
        step(**batch)
    return step.state_dict()


def test_state_has_the_single_processs_names_and_shapes():
    alone = lab.Transformer(CONFIG).state_dict()
    for state in numbers(8).run(stepping, Layout(tp=2, pp=2, dp=2, zero=3, microbatches=1)).results:
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in alone.items()}
        assert all(torch.equal(state[name], alone[name]) for name in alone)


TOKENS = torch.zeros(4, 8, dtype=torch.long)
REFUSED = [
    ("is 2 ranks, got a world of 1", {"layout": Layout(dp=2)}),
    ("clip .a norm, or None. as a number above 0; got 0.0", {"options": {"clip": 0.0}}),
    ("precision as one of", {"options": {"precision": "int8"}}),
    ("fp16' wants a scaler", {"options": {"precision": "fp16"}}),
    ("recompute as one of 'none', .*; got 'some'", {"options": {"recompute": "some"}}),
    ("one shape", {"tokens": TOKENS, "targets": TOKENS[:2]}),
    ("batch of 4 does not split", {"tokens": TOKENS, "targets": TOKENS, "layout": Layout(microbatches=3)}),
    ("at most max_seq=16", {"tokens": TOKENS.repeat(1, 3), "targets": TOKENS.repeat(1, 3)}),
    ("numbers from 0 to 12, got 0 to 99", {"tokens": TOKENS + 99 * torch.eye(4, 8).long(), "targets": TOKENS}),
    ("positions want shape", {"tokens": TOKENS, "targets": TOKENS, "positions": torch.arange(3)}),
    ("a mask wants shape", {"tokens": TOKENS, "targets": TOKENS, "mask": torch.ones(8, 8, dtype=torch.bool)}),
]  # fmt: skip


@pytest.mark.parametrize("says, how", REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(says, how):
    with pytest.raises(ValueError, match=says):
        numbers(1).run(stepping, **how)


def test_bad_input_is_refused_on_every_rank_before_anything_is_sent():
    def worker(world):
        step = parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), Layout(dp=2), world)
        with pytest.raises(ValueError, match="does not split over dp=2"):
            step(TOKENS[:3], TOKENS[:3])
        return world.clock()

    run = numbers(2).run(worker)
    assert run.trace.comm_bytes() == 0 and len(run.results) == 2


def test_another_model_or_one_that_is_split_already_is_refused():
    def worker(world):
        with pytest.raises(ValueError, match="plain Transformer, got LSTM"):
            parallelize(lab.model.LSTM(CONFIG), make_optimizer("sgd"), Layout(), world)
        step = parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), Layout(tp=2), world)
        with pytest.raises(ValueError, match="already split"):
            parallelize(step.model, make_optimizer("sgd"), Layout(tp=2), world)

    numbers(2).run(worker)


def test_a_cast_of_tensors_without_numbers_is_refused_with_what_to_do():
    def worker(world):
        parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), Layout(), world, precision="bf16")

    with pytest.raises(ValueError, match=r"numerics=False has none: give the model the dtype itself"):
        lab.Simulator(1, numerics=False).run(worker)


def test_the_learning_rate_can_be_changed_between_steps():
    def worker(world):
        step = parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), Layout(dp=2, zero=1), world)
        before = step.state_dict()
        lab.optim.LRScheduler(step.optimizer, lambda n: 0.0)
        step(TOKENS, TOKENS)
        return all(torch.equal(a, b) for a, b in zip(before.values(), step.state_dict().values(), strict=True))

    assert numbers(2).run(worker).results == [True, True]


def test_describe_shows_what_a_layout_changed():
    def worker(world):
        model = lab.Transformer(CONFIG)
        step = parallelize(model, make_optimizer("sgd"), Layout(tp=2, dp=2), world)
        return lab.describe(step, before=lab.Transformer(CONFIG))

    text = numbers(4).run(worker).results[0]
    assert "[4, 8]" in text and "average" in text


def test_a_stage_frees_the_layers_it_does_not_run():
    def worker(world):
        step = parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), Layout(pp=2), world)
        return len([m for m in step.model.modules() if isinstance(m, Block)]), len(step.gathering.held)

    (blocks, first), (_, last) = numbers(2).run(worker).results
    whole = len(list(lab.Transformer(CONFIG).named_parameters()))
    assert blocks == 1 and first < whole and last < whole


def test_a_split_parameter_knows_its_placement():
    def worker(world):
        step = parallelize(lab.Transformer(CONFIG), make_optimizer("sgd"), Layout(tp=2), world)
        return [repr(shard_of(step.gathering.held[f"blocks.0.mlp.{name}.weight"])) for name in ("up", "down")]

    assert numbers(2).run(worker).results[0] == ["Shard(0) of 8 over tp=2", "Shard(1) of 8 over tp=2"]


FOLDED = [
    {"dp": 4, "zero": 3}, {"dp": 2, "tp": 2, "sequence_parallel": True}, {"dp": 2, "pp": 2, "tp": 2, "microbatches": 2},
    {"dp": 2, "cp": 2}, {"dp": 2, "pp": 2, "schedule": "zb_h1", "microbatches": 2, "zero": 2},
]  # fmt: skip


@pytest.mark.parametrize("changes", FOLDED, ids=str)
def test_one_rank_stands_for_those_alike_along_dp_and_tp(changes):
    def worker(world):
        step = parallelize(lab.Transformer(even), make_optimizer("sgd"), layout, world)
        float(step(TOKENS, TOKENS))
        return world.clock()

    layout, even = Layout(**changes), replace(CONFIG, vocab_size=12)  # of 13 rows one rank would hold more
    folded, whole = (Simulator(layout.ranks, numerics=False, fold=f).run(worker) for f in (("dp", "tp"), ()))
    assert folded.results == whole.results
    assert folded.memory == whole.memory
    for rank in {event.rank for event in folded.trace}:  # those that ran
        assert folded.trace.comm_bytes(rank) == whole.trace.comm_bytes(rank)
