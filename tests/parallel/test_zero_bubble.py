"""Backward in two halves gives F.linear's gradients: B the input's and the bias's, W the matrix's, and not before."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmlab.comm.simulator import Simulator
from llmlab.model import Config, Transformer
from llmlab.parallel import zero_bubble
from llmlab.parallel.pipeline import pipeline_parallel
from llmlab.parallel.zero_bubble import DeferredWeights, defer_weights, pay


def operands(dtype=torch.float64):
    x, weight, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((2, 3, 4), (5, 4), (5,)))
    return x, weight, bias


def gradients_of(multiply, x, weight, bias, then=lambda: None):
    y = multiply(x, weight, bias)
    y.square().sum().backward()
    then()
    return y.detach(), x.grad, weight.grad, None if bias is None else bias.grad


@pytest.mark.parametrize("with_bias", [True, False])
def test_b_and_w_together_give_the_gradients_of_linear(with_bias):
    one, deferred = operands(), DeferredWeights()
    other = [part.detach().clone().requires_grad_() for part in one]
    if not with_bias:
        one, other = (*one[:2], None), [*other[:2], None]
    wanted = gradients_of(F.linear, *one)
    got = gradients_of(deferred, *other, then=lambda: pay(deferred.collect()))
    for a, b in zip(wanted, got, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-12, atol=0)


def test_b_leaves_the_matrix_without_a_gradient_and_w_owes_nothing_after():
    (x, weight, bias), deferred = operands(), DeferredWeights()
    deferred(x, weight, bias).sum().backward()
    assert weight.grad is None
    assert bias.grad is not None
    owed = deferred.collect()
    assert len(owed) == 1
    assert deferred.collect() == []
    pay(owed)
    assert weight.grad.shape == weight.shape


def test_what_is_owed_keeps_nothing_of_what_its_input_was_made_of():
    """An input with its graph would keep the message it came of, and that one's gradient, from B to W."""
    (x, weight, bias), deferred = operands(), DeferredWeights()
    deferred(F.layer_norm(x, (4,)), weight, bias).sum().backward()
    ((_, _, owed_input),) = deferred.collect()
    assert owed_input.grad_fn is None


def test_w_reaches_a_parameter_through_whatever_lies_before_the_matrix():
    """A slice, a sum, a matrix used twice: the graph behind it is walked by W, once, and not by B."""
    (x, weight, _), deferred = operands(), DeferredWeights()
    part = (weight * 2)[:3]
    (deferred(x, part).sum() + deferred(x * x, part).square().sum()).backward()
    assert weight.grad is None
    pay(deferred.collect())
    again = weight.detach().clone().requires_grad_()
    part = (again * 2)[:3]
    (F.linear(x, part).sum() + F.linear(x * x, part).square().sum()).backward()
    torch.testing.assert_close(weight.grad, again.grad, rtol=1e-12, atol=0)


def test_a_frozen_matrix_owes_nothing():
    (x, weight, bias), deferred = operands(), DeferredWeights()
    deferred(x, weight.detach(), bias).sum().backward()
    assert deferred.collect() == []
    with torch.no_grad():
        assert not deferred(x, weight, bias).requires_grad


def test_autocast_casts_as_linear_does():
    one, deferred = operands(torch.float32), DeferredWeights()
    other = [part.detach().clone().requires_grad_() for part in one]
    with torch.autocast("cpu", torch.bfloat16):
        wanted = gradients_of(F.linear, *one)
        got = gradients_of(deferred, *other, then=lambda: pay(deferred.collect()))
    assert [x.dtype for x in got] == [torch.bfloat16] + 3 * [torch.float32]
    for a, b in zip(wanted, got, strict=True):
        assert torch.equal(a, b)


def test_a_whole_model_has_the_same_gradients():
    config = Config(vocab_size=11, d_model=8, n_layer=2, n_head=2, max_seq=5, mlp="swiglu", dtype=torch.float64)
    plain, split = Transformer(config), Transformer(config)
    tokens = torch.randint(0, 11, (2, 5))
    plain.loss(tokens, tokens).backward()
    deferred = defer_weights(split)
    split.loss(tokens, tokens).backward()
    late = [name for name, p in split.named_parameters() if p.grad is None]
    assert len(late) == 2 * 7  # seven matrices a block; the tied table has its embedding's share already
    pay(deferred.collect())
    for (name, a), (_, b) in zip(plain.named_parameters(), split.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-15, msg=name)


def test_weight_gradients_run_in_w_and_not_in_b():
    def worker(world):
        config = Config(vocab_size=16, d_model=64, n_layer=2, n_head=2, max_seq=32)
        pipe = pipeline_parallel(Transformer(config), world, schedule="zb_h1", microbatches=2)
        tokens = torch.zeros(4, 32, dtype=torch.long, device=world.device)
        pipe.forward_backward(tokens, tokens)

    trace = Simulator(2, numerics=False).run(worker).trace
    flops = {"F": 0, "B": 0, "W": 0}
    for span in trace.select(rank=0, stream="host"):
        inside = [e for e in trace.select(rank=0, stream="compute", op="matmul") if span.start <= e.start < span.stop]
        flops[span.op[0]] += sum(e.flops for e in inside)
    assert flops["W"] > 0
    assert flops["F"] == flops["B"] == flops["W"]  # each as many products as forward


def test_a_forgotten_w_is_caught(monkeypatch):
    (x, weight, bias), deferred = operands(), DeferredWeights()
    monkeypatch.setattr(zero_bubble.torch.autograd, "backward", lambda edges, gradients: None)
    deferred(x, weight, bias)
    y = deferred(x, weight, bias)
    torch.autograd.grad(y.sum(), x)
    pay(deferred.collect())
    assert weight.grad is None  # what the comparison above would then compare with F.linear's
