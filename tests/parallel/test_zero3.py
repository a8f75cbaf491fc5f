"""Stage 3 holds whole weights only while a unit computes, and what is built on top of it stays right."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from llmlab.model import Config, Transformer, recompute
from llmlab.parallel import zero3
from llmlab.parallel.zero import ZeRO, zero
from llmlab.parallel.zero_bubble import defer_weights, pay
from tests.parallel.comparing import joined, numbers

CONFIG = Config(vocab_size=17, d_model=8, n_layer=3, n_head=2, max_seq=6, dtype=torch.float64)
BLOCK = 12 * 8 * 8 + 13 * 8  # numbers in a block: four D x D and two D x 4D matrices, their biases, two norms
AROUND = 17 * 8 + 6 * 8 + 2 * 8  # the tied table, the positions, the last norm


def batch(step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randint(0, 17, (2, 4, 6), generator=generator))


def share(world, step: int = 0) -> list[torch.Tensor]:
    return [part.chunk(world.size)[world.rank] for part in batch(step)]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


@cache
def train_alone() -> torch.Tensor:
    model = Transformer(CONFIG)
    optimizer = sgd(model.parameters())
    for step in range(3):
        optimizer.zero_grad()
        model.loss(*batch(step)).backward()
        optimizer.step()
    return joined(model.parameters())


def train(world, prefetch: bool = True, computed_again: str | None = None, deferred: bool = False):
    """Three steps; the weights, gathered."""
    model = Transformer(CONFIG)
    products = defer_weights(model) if deferred else None
    sharded = ZeRO(model, world, 3, prefetch=prefetch)
    if computed_again:
        recompute(model, computed_again)
    optimizer = sgd(model.parameters())
    sharded.adopt(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        loss = model.loss(*share(world, step))
        if products is None:
            loss.backward()
        else:
            with sharded.no_sync():
                loss.backward()
                pay(products.collect())
            sharded.reduce(model.parameters())
        sharded.finish()
        optimizer.step()
        sharded.publish()
    return joined(map(sharded.whole, model.parameters()))


HOWS = {
    "fetched ahead": {},
    "fetched when needed": {"prefetch": False},
    "blocks computed again": {"computed_again": "full"},
    "blocks computed again, fetched when needed": {"computed_again": "full", "prefetch": False},
    "attention computed again": {"computed_again": "selective"},
    "weight gradients put off": {"deferred": True},
}


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_the_weights_after_3_steps_are_the_single_processs(how):
    one = train_alone()
    for many in numbers(2).run(train, **how).results:
        assert (one - many).norm() < 1e-9 * one.norm()


def messages(**how) -> list[tuple[str, int]]:
    """What rank 0 hands over in one step, in numbers."""

    def step(world):
        model = Transformer(CONFIG)
        optimizer = zero(model, sgd, world, 3, prefetch=how.get("prefetch", True))
        if "computed_again" in how:
            recompute(model, how["computed_again"])
        model.loss(*share(world)).backward()
        optimizer.step()

    events = numbers(2).run(step).trace.select(rank=0, stream="comm")
    return [({"all_gather": "gather", "reduce_scatter": "reduce"}[e.op], e.nbytes // 8) for e in events]


GATHER, GATHER_AROUND = ("gather", BLOCK // 2), ("gather", AROUND // 2)
REDUCE, REDUCE_AROUND = ("reduce", BLOCK), ("reduce", AROUND)


def test_forward_gathers_each_unit_once_and_backward_again_but_for_the_last_and_the_embedding():
    forward = [GATHER_AROUND, GATHER, GATHER, GATHER, GATHER_AROUND]
    backward = [GATHER, GATHER, REDUCE, GATHER, REDUCE, REDUCE, REDUCE_AROUND]
    assert messages() == forward + backward


def test_without_prefetch_a_unit_is_gathered_when_it_is_needed():
    forward = [GATHER_AROUND, GATHER, GATHER, GATHER, GATHER_AROUND]
    backward = [GATHER_AROUND, GATHER, REDUCE, GATHER, REDUCE, GATHER, REDUCE, REDUCE_AROUND]
    assert messages(prefetch=False) == forward + backward


@pytest.mark.parametrize("prefetch", [True, False])
def test_computing_activations_again_gathers_nothing_more(prefetch):
    assert messages(prefetch=prefetch, computed_again="full") == messages(prefetch=prefetch)


def seen_inside(world):
    """Which blocks' weights are whole, at each block's turn and at the end; whether outside they may be read."""
    model, seen = Transformer(CONFIG), []
    sharded = ZeRO(model, world, 3, prefetch=False)

    def look(*_):
        seen.append([not block.mlp.up.weight.isnan().any().item() for block in model.blocks])

    for block in model.blocks:
        block.attention_norm.register_forward_pre_hook(look)
        block.mlp.up.register_full_backward_hook(look)
    loss = model.loss(*share(world))
    look()
    loss.backward()
    look()
    return seen, all(p.isnan().all() for p in sharded.owned), [tuple(p.shape) for p in sharded.owned]


def test_weights_are_whole_in_their_turn_and_nan_before_and_after():
    seen, hidden, shapes = numbers(2).run(seen_inside).results[0]
    first, second, third = ([i == block for i in range(3)] for block in range(3))
    nothing = [False] * 3
    assert seen == [first, second, third, nothing, third, second, first, nothing]
    assert hidden and shapes == [tuple(p.shape) for p in Transformer(CONFIG).parameters()]


def test_without_gradients_nothing_is_kept():
    def evaluate(world):
        model = Transformer(CONFIG)
        sharded = ZeRO(model, world, 3)
        with torch.no_grad():
            loss = model.loss(*batch())
        return loss, all(p.isnan().all() for p in sharded.owned)

    loss, hidden = numbers(2).run(evaluate).results[0]
    assert hidden and torch.equal(loss, Transformer(CONFIG).loss(*batch()))


def test_backward_after_the_optimizer_stepped_is_an_error():
    def stale(world):
        model = Transformer(CONFIG)
        optimizer = zero(model, sgd, world, 3)
        loss = model.loss(*batch())
        model.loss(*batch()).backward()
        optimizer.step()
        loss.backward()

    with pytest.raises(RuntimeError, match="the optimizer has stepped since"):
        numbers(2).run(stale)


def test_weights_kept_over_a_step_are_noticed(monkeypatch):
    free = zero3.Gathered.free
    monkeypatch.setattr(zero3.Gathered, "free", lambda self: None if self.bucket.numel == BLOCK else free(self))
    one = train_alone()
    assert all((one - many).norm() > 1e-3 * one.norm() for many in numbers(2).run(train).results)


def test_a_frozen_block_is_freed_as_soon_as_backward_is_through_it():
    def freeze(world):
        model, seen = Transformer(CONFIG), []
        for p in model.blocks[1:].parameters():
            p.requires_grad_(False)
        ZeRO(model, world, 3, prefetch=False)
        model.blocks[0].mlp.up.register_full_backward_hook(
            lambda *_: seen.extend(not block.mlp.up.weight.isnan().any().item() for block in model.blocks)
        )
        model.loss(*share(world)).backward()
        return seen

    assert numbers(2).run(freeze).results[0] == [True, False, False]


def test_a_parameter_of_the_models_own_is_refused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.body = nn.Parameter(torch.ones(())), nn.Linear(2, 2)

    with pytest.raises(ValueError, match="every parameter in a submodule"):
        numbers(1).run(lambda world: ZeRO(Scale(), world, 3))


def test_watchers_of_saved_tensors_see_all_that_is_no_weight():
    """As activation checkpointing and off-loading do."""

    def watch(world):
        model, shapes = Transformer(CONFIG), []
        ZeRO(model, world, 3)

        def pack(x):
            shapes.append(tuple(x.shape))
            return x.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, torch.Tensor.detach):
            loss = model.loss(*share(world))
        loss.backward()
        return shapes

    shapes = numbers(2).run(watch).results[0]
    assert (2, 2, 6, 4) in shapes  # queries, by heads
    assert (8, 8) not in shapes and (32, 8) not in shapes  # matrices
