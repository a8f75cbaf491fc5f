"""Gradients of which a rank has one summand are whole when backward returns, whatever else reduces them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmlab.comm.mesh import Mesh
from llmlab.model import Config, Transformer
from llmlab.optim import SGD
from llmlab.parallel.data import average_gradients, data_parallel, no_sync
from llmlab.parallel.partial_sums import leave_partial
from llmlab.parallel.placement import shard_of
from llmlab.parallel.tensor import tensor_parallel
from llmlab.parallel.zero import zero
from tests.parallel.comparing import numbers

CONFIG = Config(vocab_size=17, d_model=12, n_layer=2, n_head=6, max_seq=12, dtype=torch.float64)
FEW_KEYS = replace(CONFIG, d_model=24, n_head=12, n_kv_head=2, d_ff=24)  # by 4 ranks a key head is held twice
LAYOUTS = {"sequence": (CONFIG, True, 2), "few key heads": (FEW_KEYS, False, 4), "both": (FEW_KEYS, True, 4)}
TOLERANCE = 1e-12  # of each gradient's norm; fp64 rounds by 1e-16, sums of some hundred terms


def microbatch(i: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randint(0, 17, (2, 2, 12), generator=torch.Generator().manual_seed(i)))


def gradients_alone(config: Config, n: int) -> dict[str, torch.Tensor]:
    model = Transformer(config)
    for i in range(n):
        model.loss(*microbatch(i)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def whole_gradients(model) -> dict[str, torch.Tensor]:
    places = {name: (shard_of(p), p.grad) for name, p in model.named_parameters()}
    return {name: grad if place is None else place.gather(grad) for name, (place, grad) in places.items()}


def furthest(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert got.keys() == wanted.keys()
    return max(((got[name] - x).norm() / wanted["norm.weight"].norm()).item() for name, x in wanted.items())


def accumulated(world, config, sequence_parallel, n):
    model = tensor_parallel(Transformer(config), world, sequence_parallel)
    for i in range(n):
        model.loss(*microbatch(i)).backward()
    return whole_gradients(model)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [1, 3])
def test_gradients_that_add_up_over_backwards_are_the_single_processs(layout, n):
    config, sequence_parallel, ranks = LAYOUTS[layout]
    wanted = gradients_alone(config, n)
    for got in numbers(ranks).run(accumulated, config, sequence_parallel, n).results:
        assert furthest(got, wanted) < TOLERANCE


def test_each_backward_sends_one_message_more():
    def messages(n):
        run = numbers(2).run(accumulated, CONFIG, True, n)
        partial = sum(p.numel() for name, p in Transformer(CONFIG).named_parameters() if is_partial(name))
        return [e.nbytes for e in run.trace.select(rank=0, op="all_reduce")].count(8 * partial)

    assert [messages(n) for n in (1, 2)] == [1, 2]


def is_partial(name: str) -> bool:
    return "norm" in name or name.endswith(("output.bias", "down.bias"))


def test_left_partial_the_gradients_are_not_the_single_processs():
    def worker(world):
        model = tensor_parallel(Transformer(CONFIG), world, sequence_parallel=True)
        leave_partial(model.parameters())
        model.loss(*microbatch(0)).backward()
        return whole_gradients(model)

    assert furthest(numbers(2).run(worker).results[0], gradients_alone(CONFIG, 1)) > 1e-2


def test_autograd_grad_leaves_what_has_come_together_alone():
    def worker(world):
        model = tensor_parallel(Transformer(CONFIG), world, sequence_parallel=True)
        model.loss(*microbatch(0)).backward()
        before = model.norm.weight.grad.clone()
        torch.autograd.grad(model.loss(*microbatch(1)), list(model.parameters()))
        return torch.equal(before, model.norm.weight.grad)

    assert all(numbers(2).run(worker).results)


def test_a_backward_that_failed_does_not_keep_the_next_one_from_being_summed():
    def fail(grad):
        raise RuntimeError("planted")

    def worker(world):
        model = tensor_parallel(Transformer(CONFIG), world, sequence_parallel=True)
        handle = model.blocks[1].mlp.down.weight.register_hook(fail)
        with pytest.raises(RuntimeError, match="planted"):
            model.loss(*microbatch(5)).backward()
        handle.remove()
        model.zero_grad()
        for i in range(2):
            model.loss(*microbatch(i)).backward()
        return whole_gradients(model)

    wanted = gradients_alone(CONFIG, 2)
    assert all(furthest(got, wanted) < TOLERANCE for got in numbers(2).run(worker).results)


def test_what_a_backward_does_not_reach_is_not_summed_again():
    def two_backwards(model):
        model.loss(*microbatch(0)).backward()
        tokens, _ = microbatch(1)
        x = model.through(model.blocks[:1], model.embedding(tokens), torch.arange(12))
        (x * x.detach()).sum().backward()  # the first block's norms, and not the second's
        return model

    def worker(world):
        return whole_gradients(two_backwards(tensor_parallel(Transformer(CONFIG), world, sequence_parallel=True)))

    wanted = {name: p.grad for name, p in two_backwards(Transformer(CONFIG)).named_parameters()}
    names = [name for name in wanted if is_partial(name)]  # the embedding's slices have no sum: that is `leave`'s part
    for got in numbers(2).run(worker).results:
        for name in names:
            torch.testing.assert_close(got[name], wanted[name], rtol=TOLERANCE, atol=TOLERANCE)


def test_what_a_cleared_gradient_held_does_not_come_back_after_a_backward_that_failed():
    def fail(grad):
        raise RuntimeError("planted")

    def worker(world):
        model = tensor_parallel(Transformer(CONFIG), world, sequence_parallel=True)
        model.loss(*microbatch(5)).backward()
        handle = model.blocks[1].mlp.down.weight.register_hook(fail)
        with pytest.raises(RuntimeError, match="planted"):
            model.loss(*microbatch(6)).backward()
        handle.remove()
        model.zero_grad()
        model.loss(*microbatch(0)).backward()
        return whole_gradients(model)

    wanted = gradients_alone(CONFIG, 1)
    assert all(furthest(got, wanted) < TOLERANCE for got in numbers(2).run(worker).results)


def test_a_parameter_frozen_at_first_is_summed_once_it_is_trained():
    def worker(world):
        model = Transformer(CONFIG).requires_grad_(False)
        tensor_parallel(model, world, sequence_parallel=True).requires_grad_(True)
        model.loss(*microbatch(0)).backward()
        return whole_gradients(model)

    wanted = gradients_alone(CONFIG, 1)
    assert all(furthest(got, wanted) < TOLERANCE for got in numbers(2).run(worker).results)


@pytest.mark.parametrize("how", ["always", "at the last", "by hand"])
def test_under_data_parallel_microbatches_are_summed_when_they_are_averaged(how):
    def worker(world):
        mesh = Mesh(world, dp=2, tp=2)
        model = data_parallel(tensor_parallel(Transformer(CONFIG), mesh["tp"], sequence_parallel=True), mesh["dp"])
        dp = mesh["dp"].rank
        if how == "always":
            model.loss(*microbatch(dp)).backward()
            return whole_gradients(model)
        with no_sync(model):
            model.loss(*(x[:1] for x in microbatch(dp))).backward()
            if how == "by hand":
                model.loss(*(x[1:] for x in microbatch(dp))).backward()
        if how == "at the last":
            model.loss(*(x[1:] for x in microbatch(dp))).backward()
        else:
            average_gradients(model)
        return {name: grad / 2 for name, grad in whole_gradients(model).items()}

    wanted = {name: grad / 2 for name, grad in gradients_alone(CONFIG, 2).items()}
    assert all(furthest(got, wanted) < TOLERANCE for got in numbers(4).run(worker).results)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_under_zero_the_weights_after_two_steps_are_the_single_processs(stage):
    def worker(world):
        mesh = Mesh(world, dp=2, tp=2)
        model = tensor_parallel(Transformer(CONFIG), mesh["tp"], sequence_parallel=True)
        optimizer = zero(model, lambda ps: SGD(ps, lr=0.5), mesh["dp"], stage)
        for step in range(2):
            model.loss(*microbatch(2 * step + mesh["dp"].rank)).backward()
            optimizer.step()
            optimizer.zero_grad()
        named = {name: (shard_of(p), model.zero.whole(p)) for name, p in model.named_parameters()}
        return {name: x if place is None else place.gather(x) for name, (place, x) in named.items()}

    alone = Transformer(CONFIG)
    optimizer = SGD(alone.parameters(), lr=0.5)
    for step in range(2):
        sum(alone.loss(*microbatch(2 * step + i)) / 2 for i in range(2)).backward()
        optimizer.step()
        optimizer.zero_grad()
    wanted = {name: p.detach() for name, p in alone.named_parameters()}
    assert all(furthest(got, wanted) < TOLERANCE for got in numbers(4).run(worker).results)
