"""The differentiable collectives: values and gradients are the single process's, and each backward is its pair."""

from __future__ import annotations

import pytest
import torch

from llmlab.comm import autograd
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator

SIZES = [1, 2, 3, 4]
F, D, B = 12, 5, 2  # F splits over 1 to 4 ranks


def tensors():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    w1 = torch.randn(D, F, generator=generator, dtype=torch.float64)
    w2 = torch.randn(F, D, generator=generator, dtype=torch.float64)
    return x, w1, w2


def single(x, w1, w2):
    """The two-layer network of Megatron's figure 3a, on one process: value and gradients."""
    x, w1, w2 = (t.clone().requires_grad_() for t in (x, w1, w2))
    y = torch.tanh(x @ w1) @ w2
    y.square().sum().backward()
    return y.detach(), x.grad, w1.grad, w2.grad


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # fp64, sums of at most 24 terms of order 1 to 100


@pytest.mark.parametrize(("engine", "size"), [*((Simulator, size) for size in SIZES), (Processes, 2)])
def test_copy_to_and_reduce_from_make_a_column_and_a_row_split_one_network(engine, size):
    def worker(world):
        x, w1, w2 = tensors()
        x = x.requires_grad_()
        w1 = w1.chunk(size, 1)[world.rank].clone().requires_grad_()
        w2 = w2.chunk(size, 0)[world.rank].clone().requires_grad_()
        y = autograd.reduce_from(torch.tanh(autograd.copy_to(x, world) @ w1) @ w2, world)
        y.square().sum().backward()
        return y.detach(), x.grad, w1.grad, w2.grad

    y, dx, dw1, dw2 = single(*tensors())
    results = engine(size).run(worker).results
    for got in results:
        close(got[0], y)
        close(got[1], dx)
    close(torch.cat([got[2] for got in results], 1), dw1)
    close(torch.cat([got[3] for got in results], 0), dw2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_scatter_to_and_gather_from_give_the_values_and_gradients_of_no_split(size, dim):
    def worker(world):
        x = torch.arange(144.0, dtype=torch.float64).view(12, 12).requires_grad_()
        part = autograd.scatter_to(x, world, dim)
        assert part.shape[dim] == 12 // size
        y = autograd.gather_from(torch.sin(part), world, dim)
        (y * torch.cos(x.detach())).sum().backward()
        return y.detach(), x.grad

    x = torch.arange(144.0, dtype=torch.float64).view(12, 12).requires_grad_()
    y = torch.sin(x)
    (y * torch.cos(x.detach())).sum().backward()
    for got in Simulator(size).run(worker).results:
        close(got[0], y.detach())
        close(got[1], x.grad)


@pytest.mark.parametrize(("engine", "size"), [*((Simulator, size) for size in SIZES), (Processes, 2)])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_sequence_parallel_pair_makes_a_sharded_input_and_output_one_network(engine, size, dim):
    def worker(world):
        x, w1, w2 = sequence()
        x = x.chunk(size, dim)[world.rank].clone().requires_grad_()
        w1 = w1.chunk(size, 1)[world.rank].clone().requires_grad_()
        w2 = w2.chunk(size, 0)[world.rank].clone().requires_grad_()
        hidden = torch.tanh(autograd.all_gather_from(x, world, dim) @ w1)
        y = autograd.reduce_scatter_to(hidden @ w2, world, dim)
        y.square().sum().backward()
        return y.detach(), x.grad, w1.grad, w2.grad

    def sequence():
        generator = torch.Generator().manual_seed(1)
        shapes = [(12, 12, D), (D, F), (F, D)]
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    results = engine(size).run(worker).results
    for i, (wanted, join) in enumerate(zip(single(*sequence()), [dim, dim, 1, 0], strict=True)):
        close(torch.cat([got[i] for got in results], join), wanted)


@pytest.mark.parametrize(("engine", "size"), [*((Simulator, size) for size in SIZES), (Processes, 2)])
def test_all_to_all_moves_the_split_and_its_backward_moves_it_back(engine, size):
    def worker(world):
        whole = torch.arange(12.0 * 24, dtype=torch.float64).view(12, 24)
        rows = whole.chunk(size, 0)[world.rank].clone().requires_grad_()
        columns = autograd.all_to_all(rows, world, split_dim=1, cat_dim=0)
        (columns * whole.chunk(size, 1)[world.rank].square()).sum().backward()
        return columns.detach(), rows.grad

    whole = torch.arange(12.0 * 24, dtype=torch.float64).view(12, 24)
    results = engine(size).run(worker).results
    close(torch.cat([got[0] for got in results], 1), whole)
    close(torch.cat([got[1] for got in results], 0), whole.square())


def test_each_backward_sends_what_its_pair_sends_forward():
    """The table of the module: (forward, its own collective or none, the backward's)."""
    table = [
        ("copy_to", (), None, "all_reduce"),
        ("reduce_from", (), "all_reduce", None),
        ("gather_from", (0,), "all_gather", None),
        ("scatter_to", (0,), None, "all_gather"),
        ("all_gather_from", (0,), "all_gather", "reduce_scatter"),
        ("reduce_scatter_to", (0,), "reduce_scatter", "all_gather"),
        ("all_to_all", (0, 1), "all_to_all", "all_to_all"),
    ]

    def worker(world, name, arguments):
        x = torch.ones(4, 4, requires_grad=True)
        getattr(autograd, name)(x, world, *arguments).sum().backward()

    for name, arguments, forward, backward in table:
        ops = [e.op for e in Simulator(2).run(worker, name, arguments).trace.select(rank=0, stream="comm")]
        assert ops == [op for op in (forward, backward) if op], name


def test_second_derivatives_pass_through_too():
    def worker(world):
        x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        y = autograd.reduce_from((world.rank + 1) * autograd.copy_to(x, world) ** 3, world)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        return first.detach(), second

    for first, second in Simulator(2).run(worker).results:  # (1 + 2) x^3
        close(first, torch.tensor([9.0, 36.0], dtype=torch.float64))
        close(second, torch.tensor([18.0, 36.0], dtype=torch.float64))


def test_values_and_gradients_in_fp32_are_near_fp64s():
    def worker(world, dtype):
        x, w1, w2 = (t.to(dtype) for t in tensors())
        w1 = w1.chunk(4, 1)[world.rank].clone().requires_grad_()
        y = autograd.reduce_from(torch.tanh(autograd.copy_to(x, world) @ w1) @ w2.chunk(4, 0)[world.rank], world)
        y.square().sum().backward()
        return w1.grad

    for low, high in zip(
        Simulator(4).run(worker, torch.float32).results, Simulator(4).run(worker, torch.float64).results, strict=True
    ):
        # fp32: some twenty roundings of 6e-8, each on terms no larger than the largest gradient
        torch.testing.assert_close(low.double(), high, rtol=0, atol=20 * 6e-8 * high.abs().max().item())


def test_a_dimension_that_does_not_split_is_refused_before_anything_is_sent():
    def worker(world):
        for name, arguments in [("scatter_to", (1,)), ("reduce_scatter_to", (1,)), ("all_to_all", (1, 0))]:
            with pytest.raises(ValueError, match=f"{name}: dimension 1 of size 5 does not split over world=2"):
                getattr(autograd, name)(torch.ones(4, 5), world, *arguments)
        with pytest.raises(ValueError, match="gather_from wants dim as a whole number from -2 to 1; got 2"):
            autograd.gather_from(torch.ones(4, 5), world, 2)

    assert len(Simulator(2).run(worker).trace.select(stream="comm")) == 0


def test_a_group_of_one_sends_nothing():
    def worker(world):
        x = torch.ones(4, 4, requires_grad=True)
        y = autograd.gather_from(autograd.scatter_to(autograd.copy_to(x, world), world), world)
        autograd.all_to_all(autograd.reduce_from(y, world), world, 0, 1).sum().backward()
        return x.grad

    run = Simulator(1).run(worker)
    assert torch.equal(run.results[0], torch.ones(4, 4))
    assert run.trace.comm_bytes() == 0
