"""A pipeline's closed forms equal what the simulator records: bytes exactly, the bubble exactly, memory within 5%."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmlab.comm.simulator import Simulator
from llmlab.cost.modes.pipeline import activation_bytes, bubble, bubble_share, pipeline_bytes
from llmlab.hardware import Link, cluster
from llmlab.model import Config, Transformer
from llmlab.parallel import pipeline
from llmlab.parallel.microbatches import Microbatch
from llmlab.parallel.pipeline import pipeline_parallel
from llmlab.parallel.schedules import make_schedule
from llmlab.parallel.stages import split_layers
from llmlab.parallel.timetable import idle, timetable

MODELS = {
    "gpt": {},
    "llama": {"mlp": "swiglu", "norm": "rmsnorm", "n_kv_head": 2, "position": "rotary", "bias": False,
              "tie_embeddings": False},
    "wide rotated heads": {"head_dim": 32, "position": "rotary", "n_kv_head": 1, "attention_bias": "qkv"},
}  # fmt: skip
SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb_h1", 1)]
RANKS, MICROBATCHES, BATCH, SEQ = 3, 6, 12, 64


def config(model: str) -> Config:
    return Config(vocab_size=64, d_model=64, n_layer=12, n_head=4, max_seq=SEQ, **MODELS[model])


def step(world, cfg, **options):
    """One step on meta tensors: operations, bytes and memory without the numbers."""
    pipe = pipeline_parallel(Transformer(cfg), world, microbatches=MICROBATCHES, **options)
    tokens = torch.zeros(BATCH, SEQ, dtype=torch.long, device=world.device)
    pipe.forward_backward(tokens, tokens)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "stages"), SCHEDULES)
def test_bytes_are_the_closed_form_exactly_and_memory_within_5_percent(name, stages, model):
    cfg, schedule = config(model), make_schedule(name, RANKS, MICROBATCHES, stages)
    run = Simulator(RANKS, numerics=False).run(step, cfg, schedule=name, virtual_stages=stages)
    sizes = split_layers(cfg.n_layer, schedule.stages)
    for rank in range(RANKS):
        assert run.trace.comm_bytes(rank=rank) == pipeline_bytes(cfg, schedule, rank, BATCH, SEQ)
        wanted = activation_bytes(cfg, schedule, rank, BATCH, SEQ, sizes)
        assert run.memory[rank]["activations"] == pytest.approx(wanted, rel=0.05)


def test_a_rank_alone_hands_over_nothing_and_uneven_stages_are_counted_too():
    cfg, split = config("gpt"), [3, 5, 4]
    schedule = make_schedule("1f1b", 3, MICROBATCHES)
    run = Simulator(3, numerics=False).run(step, cfg, split=split)
    for rank in range(3):
        assert run.trace.comm_bytes(rank=rank) == pipeline_bytes(cfg, schedule, rank, BATCH, SEQ)
        wanted = activation_bytes(cfg, schedule, rank, BATCH, SEQ, split)
        assert run.memory[rank]["activations"] == pytest.approx(wanted, rel=0.05)
    assert pipeline_bytes(cfg, make_schedule("1f1b", 1, 4), 0, BATCH, SEQ) == 0


# --- the bubble: blocks that sleep, on ranks whose own work and messages take no time ---------------------------------

SECONDS = {"F": 1.0, "B": 1.5, "W": 0.5}  # of a rank's blocks and one microbatch
FREE = cluster("classroom", intra=Link("free", 0.0, 1e30), devices_per_node=64)
FREE = replace(FREE, device=replace(FREE.device, one_clock=True, launch_s=0.0))


class Sleep(torch.autograd.Function):
    """x -> x, taking so many seconds forward and so many backward."""

    @staticmethod
    def forward(ctx, x, world, forward, backward):
        ctx.world, ctx.backward_s = world, backward
        world.sleep(forward)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.world.sleep(ctx.backward_s)
        return grad, None, None, None


def sleepy(world, name: str, stages: int, microbatches: int):
    """A step of a pipeline in which a rank's blocks take SECONDS together."""
    cfg = Config(vocab_size=3, d_model=2, n_layer=world.size * stages, n_head=1, max_seq=2)
    model = Transformer(cfg)
    backward = SECONDS["B"] if name == "zb_h1" else SECONDS["B"] + SECONDS["W"]
    for block in model.blocks:
        block.forward = lambda x, *_: Sleep.apply(x, world, SECONDS["F"] / stages, backward / stages)
    pipe = pipeline_parallel(model, world, name, microbatches, stages)
    batch = Microbatch(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))
    pipe.run([batch] * microbatches, 1.0)


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 4), (4, 8), (1, 3)])
@pytest.mark.parametrize(("name", "stages"), [*SCHEDULES, ("interleaved", 3)])
def test_the_bubble_in_the_simulated_timeline_is_the_formulas(name, stages, ranks, microbatches, monkeypatch):
    weights = pipeline.Interpreter.weights

    def slowly(self, action):
        self.pipeline.group.sleep(SECONDS["W"])
        weights(self, action)

    monkeypatch.setattr(pipeline.Interpreter, "weights", slowly)
    run = Simulator(ranks, FREE, kernels=False).run(sleepy, name, stages, microbatches)
    work = microbatches * sum(SECONDS.values())
    waits = bubble(name, ranks, microbatches, *(SECONDS[kind] for kind in "FBW"), stages)
    assert run.seconds == pytest.approx(work + waits, rel=1e-9)
    costs = {**SECONDS, "B": SECONDS["B"] if name == "zb_h1" else SECONDS["B"] + SECONDS["W"]}
    assert idle(timetable(make_schedule(name, ranks, microbatches, stages), costs)) == pytest.approx([waits] * ranks)


@pytest.mark.parametrize("costs", [(1, 1, 1), (2, 3, 1), (1, 2, 1.5), (2, 1, 1.5), (0.25, 0.5, 2)])
@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 1), (4, 2), (6, 5), (6, 6), (3, 8), (2, 1)])
def test_zero_bubble_fills_with_no_more_weights_than_have_come_back(ranks, microbatches, costs):
    slots = timetable(make_schedule("zb_h1", ranks, microbatches), dict(zip("FBW", costs, strict=True)))
    assert idle(slots) == pytest.approx([bubble("zb_h1", ranks, microbatches, *costs)] * ranks)


def test_the_share_of_the_bubble():
    assert bubble_share("gpipe", 4, 12) == bubble_share("1f1b", 4, 12) == 3 / 15  # (p - 1) / (m + p - 1)
    assert bubble_share("interleaved", 4, 12, 3) == pytest.approx(1 / 13)
    assert bubble_share("zb_h1", 4, 12) == pytest.approx(3 / (3 + 36))
    assert bubble_share("1f1b", 1, 12) == 0
    with pytest.raises(ValueError, match="got 'v'"):
        bubble("v", 4, 8, 1, 1, 1)
