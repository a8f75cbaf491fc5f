"""Adapters trained under every layout equal those that one process trains, and only their gradients travel."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from llmlab.comm.processes import Processes
from llmlab.model import Config, Transformer, add_lora, lora_state
from llmlab.parallel.compose import parallelize
from llmlab.parallel.data import data_parallel
from llmlab.parallel.layout import Layout
from tests.parallel.comparing import batch, numbers

CONFIG = Config(vocab_size=17, d_model=16, n_layer=2, n_head=4, n_kv_head=2, max_seq=8, dtype=torch.float64)
TARGETS = ("query", "key", "value", "output", "up", "down")


def adapted():
    model = add_lora(Transformer(CONFIG), rank=2, targets=TARGETS)
    for i, b in enumerate(p for name, p in model.named_parameters() if name.endswith("lora_b")):
        b.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(i))  # at B = 0 the gradient of A is 0
    return model


def sgd(parameters):
    return torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.5)


def batches():
    return [tuple(x[:, :4] for x in batch(8, seed)) for seed in range(1, 3)]


def train(world, layout):
    step = parallelize(adapted(), sgd, layout, world)
    losses = [step(tokens, targets).item() for tokens, targets in batches()]
    return losses, step.state_dict()


@cache
def alone():
    return numbers(1).run(train, Layout()).results[0]


LAYOUTS = [
    Layout(dp=2), Layout(tp=4), Layout(tp=2, sequence_parallel=True), Layout(cp=2), Layout(dp=2, zero=2),
    Layout(dp=2, zero=3),
    Layout(dp=2, tp=2, pp=2, microbatches=2, zero=1),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_adapters_trained_under_a_layout_equal_one_processs(layout: Layout) -> None:
    losses, state = alone()
    for got, gathered in numbers(layout.ranks).run(train, layout).results:
        assert got == pytest.approx(losses, abs=1e-12)
        for name, value in state.items():
            assert torch.allclose(gathered[name], value, rtol=0, atol=1e-12), name  # fp64, steps of size 0.5
    fresh = adapted().state_dict()
    moved = {name for name in state if not torch.equal(state[name], fresh[name])}
    assert moved == set(lora_state(adapted()))


def test_data_parallelism_sends_the_adapters_gradients_only() -> None:
    def worker(world):
        model = data_parallel(adapted(), world, init_sync=False)
        tokens, targets = (x[world.rank :: world.size] for x in batches()[0])
        model.loss(tokens, targets).backward()

    run = numbers(2).run(worker)
    n_adapter = sum(x.numel() for x in lora_state(adapted()).values())
    assert run.trace.comm_bytes(rank=0, op="all_reduce") == 8 * n_adapter


def test_real_processes_train_the_same_adapters() -> None:
    losses, state = alone()
    got, gathered = Processes(2).run(train, Layout(tp=2)).results[1]
    assert got == pytest.approx(losses, abs=1e-12)
    assert all(torch.allclose(gathered[name], value, rtol=0, atol=1e-12) for name, value in state.items())


def test_a_zero_bubble_pipeline_refuses_adapters() -> None:
    with pytest.raises(ValueError, match="1f1b"):
        numbers(2).run(train, Layout(pp=2, microbatches=2, schedule="zb_h1"))
