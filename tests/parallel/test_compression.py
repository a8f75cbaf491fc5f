"""Compressed gradients with error feedback are the written-out algorithm, and send the closed form's bytes."""

from __future__ import annotations

from functools import partial
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.parallel import compression
from llmlab.parallel.compression import EightBit, TopK, compress_gradients
from llmlab.parallel.data import data_parallel
from tests.parallel.comparing import numbers, weights

vectors = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40).map(
    lambda xs: torch.tensor(xs, dtype=torch.float64)
)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


N = sum(p.numel() for p in make_model().parameters())


def batch(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return x, x[:, :2].sin() + rank


def sgd(model, lr=0.2, momentum=0.9):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def train(world, transform, steps: int = 6):
    """A rank's losses, last gradient and weights. transform(model, optimizer, world) hooks the exchange in."""
    model = make_model()
    optimizer, losses = sgd(model), []
    transform(model, optimizer, world)
    for step in range(steps):
        x, y = batch(world.rank, step)
        optimizer.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), torch.cat([p.grad.flatten() for p in model.parameters()]), weights(model)


def compressed(compressor, error_feedback=True):
    return lambda model, optimizer, world: compress_gradients(optimizer, world, compressor, error_feedback)


def plain_top_k(k):
    def shorten(x):
        kept = x.clone()
        kept[x.abs().argsort(descending=True)[k:]] = 0
        return kept

    return shorten


def plain_eight_bit(block):
    def shorten(x):
        pieces = []
        for piece in x.split(block):
            scale = piece.abs().max() / 127
            pieces.append((piece / scale).round() * scale)
        return torch.cat(pieces)

    return shorten


def train_alone(ranks: int, shorten, error_feedback=True, steps: int = 6):
    """One process with every rank's batch: x_r = g_r + e_r, e_r = x_r - C(x_r), a step along the mean of C(x_r)."""
    model = make_model()
    optimizer, losses = sgd(model), [[] for _ in range(ranks)]
    left_out = [torch.zeros(N, dtype=torch.float64) for _ in range(ranks)]
    for step in range(steps):
        sent = []
        for rank in range(ranks):
            x, y = batch(rank, step)
            loss = mse_loss(model(x), y)
            gradient = torch.autograd.grad(loss, list(model.parameters()))
            full = torch.cat([g.flatten() for g in gradient]) + left_out[rank]
            sent.append(shorten(full))
            left_out[rank] = (full - sent[-1]) * error_feedback
            losses[rank].append(loss.detach())
        mean = sum(sent) / ranks
        for p, piece in zip(model.parameters(), mean.split([p.numel() for p in model.parameters()]), strict=True):
            p.grad = piece.view_as(p).clone()
        optimizer.step()
    return [(torch.stack(own), mean, weights(model)) for own in losses]


def furthest(alone, run) -> float:
    pairs = [(a, b) for one, many in zip(alone, run.results, strict=True) for a, b in zip(one, many, strict=True)]
    return max(((a - b).norm() / a.norm()).item() for a, b in pairs)


CASES = {
    "top tenth": (TopK(0.1), plain_top_k(ceil(0.1 * N))),
    "one entry": (TopK(1e-6), plain_top_k(1)),
    "8 bit": (EightBit(), plain_eight_bit(256)),
    "8 bit in blocks of 5": (EightBit(5), plain_eight_bit(5)),
}


@pytest.mark.parametrize(("compressor", "shorten"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("ranks", [1, 3])
def test_it_is_the_algorithm_written_out(ranks, compressor, shorten):
    for feedback in (True, False):
        run = numbers(ranks).run(train, compressed(compressor, feedback))
        assert furthest(train_alone(ranks, shorten, feedback), run) < 1e-9


def test_all_entries_kept_is_data_parallelism():
    whole = numbers(3).run(train, lambda model, optimizer, world: data_parallel(model, world))
    assert furthest(whole.results, numbers(3).run(train, compressed(TopK(1.0)))) < 1e-9
    assert furthest(train_alone(3, lambda x: x), whole) < 1e-9


def test_all_ranks_hold_the_same_bits():
    results = numbers(3).run(train, compressed(TopK(0.1))).results
    assert all(torch.equal(w, results[0][2]) for _, _, w in results)


def test_two_processes_train_as_two_simulated_ranks_and_send_as_many_bytes():
    with Processes(2, timeout_s=60) as live:
        for compressor in (TopK(0.1), EightBit(8)):
            real, simulated = (engine.run(train, compressed(compressor)) for engine in (live, numbers(2)))
            assert furthest(simulated.results, real) < 1e-12
            assert [real.trace.comm_bytes(r) for r in (0, 1)] == [simulated.trace.comm_bytes(r) for r in (0, 1)]


def test_without_error_feedback_a_small_entry_never_moves_and_with_it_it_arrives():
    def worker(world, feedback):
        weight = nn.Parameter(torch.tensor([0.0, 0.0]))
        optimizer = compress_gradients(torch.optim.SGD([weight], lr=0.2), world, TopK(0.5), feedback)
        for step in range(40):  # the first entry is pushed to and fro, the second gently to 1
            weight.grad = torch.stack([torch.tensor(3.0 * (-1) ** step), weight.detach()[1] - 1])
            optimizer.step()
        return weight[1].item()

    without, with_it = (numbers(2).run(worker, feedback).results[0] for feedback in (False, True))
    assert without == 0.0
    assert with_it > 0.5


# --- the compressors --------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(x=vectors, share=st.floats(0.01, 1))
def test_top_k_keeps_the_largest_as_they_are(x, share):
    parts = TopK(share).compress(x)
    kept = TopK(share).restore(parts, len(x))
    assert len(parts[0]) == ceil(share * len(x))
    assert torch.equal(kept[kept != 0], x[kept != 0])
    assert (x - kept).abs().max() <= parts[0].abs().min()


@settings(max_examples=50)
@given(x=vectors, block=st.integers(1, 50))
def test_eight_bits_are_off_by_half_a_step_of_their_block_at_most(x, block):
    steps, step = EightBit(block).compress(x)
    off = (EightBit(block).restore((steps, step), len(x)) - x).abs()
    assert steps.dtype == torch.int8 and len(steps) == len(x)
    for piece, largest in zip(off.split(block), (p.abs().max() for p in x.split(block)), strict=True):
        assert piece.max() <= largest / 254 * (1 + 1e-9)


@pytest.mark.parametrize("compressor", [TopK(0.3), EightBit(4)])
def test_zeros_stay_zeros(compressor):
    x = torch.zeros(10)
    assert torch.equal(compressor.restore(compressor.compress(x), 10), x)


def test_smaller_blocks_round_less():
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)).exp()
    errors = [(x - EightBit(b).restore(EightBit(b).compress(x), 4096)).norm() for b in (4096, 256, 16)]
    assert errors[0] > errors[1] > errors[2] > 0


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1e-6, 0.1, 1.0])
def test_top_k_hands_over_12_bytes_for_each_double_it_keeps(share):
    trace = numbers(3).run(train, compressed(TopK(share)), steps=5).trace
    for rank in range(3):
        assert trace.comm_bytes(rank, op="all_gather") == 5 * ceil(share * N) * (8 + 4)
        assert trace.comm_bytes(rank, op="broadcast") == (8 * N if rank == 0 else 0)


@pytest.mark.parametrize("block", [4, 256])
def test_8_bit_hands_over_a_byte_an_entry_and_a_scale_a_block(block):
    trace = numbers(3).run(train, compressed(EightBit(block)), steps=5).trace
    for rank in range(3):
        assert trace.comm_bytes(rank, op="all_gather") == 5 * (N + ceil(N / block) * 8)


def test_meta_tensors_send_the_same_bytes():
    def worker(world, compressor):
        model = make_model().to(world.device)
        optimizer = compress_gradients(sgd(model), world, compressor)
        model(torch.ones(1, 3, dtype=torch.float64, device=world.device)).sum().backward()
        optimizer.step()

    for compressor in (TopK(0.2), EightBit(8)):
        runs = [Simulator(2, numerics=numerics).run(worker, compressor) for numerics in (True, False)]
        assert runs[0].trace.comm_bytes() == runs[1].trace.comm_bytes()
        assert runs[0].seconds == runs[1].seconds


# --- which gradients, and what goes wrong -----------------------------------------------------------------------------


def test_a_gradient_that_is_missing_counts_as_zero_and_dtypes_travel_apart():
    def worker(world):
        a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = compress_gradients(torch.optim.SGD([a, b], lr=1.0), world, TopK(1.0))
        if world.rank == 0:
            a.grad = torch.tensor([2.0, 4.0])
        b.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
        return a.tolist(), b.tolist()

    run = numbers(2).run(worker)
    assert run.results == [([-1.0, -2.0], [-1.0, -1.0, -1.0])] * 2
    assert run.trace.comm_bytes(0, op="all_gather") == 2 * 8 + 3 * 12


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(TopK, 0), "above 0 and of at most 1; got 0"),
        (partial(TopK, 1.5), "above 0 and of at most 1; got 1.5"),
        (partial(EightBit, 0), "of at least 1; got 0"),
        (lambda: numbers(2).run(train, compressed(0.01)), "a compressor such as TopK"),
    ],
)
def test_bad_input_says_what_is_wanted(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_without_the_1_over_n_or_without_the_residual_the_comparison_fails(monkeypatch):
    alone = train_alone(3, plain_top_k(ceil(0.1 * N)))
    right = compression.averaged
    for wrong in (lambda x, e, group, c: right(x, e, group, c) * group.size, lambda x, e, *rest: right(x, None, *rest)):
        monkeypatch.setattr(compression, "averaged", wrong)
        assert furthest(alone, numbers(3).run(train, compressed(TopK(0.1)))) > 1e-2
