"""Local SGD, FedAvg and DiLoCo are their algorithms, computed in one process, and send the closed form's bytes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from llmlab import optim
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.model import Config, Transformer
from llmlab.parallel import local_sgd as module
from llmlab.parallel.data import data_parallel
from llmlab.parallel.inspection import describe
from llmlab.parallel.local_sgd import average_weights, diloco, local_sgd
from tests.parallel.comparing import numbers, weights

OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.2),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "AdamW": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def batch(rank: int, step: int, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return x, x[:, :2].sin() + rank


N = weights(make_model()).numel()


def descend(model, optimizer, rank: int, steps: int, begin: int = 0) -> torch.Tensor:
    """Take steps on a rank's own data; give the losses."""
    losses = []
    for step in range(begin, begin + steps):
        x, y = batch(rank, step)
        optimizer.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def train(world, transform, name: str, steps, seed_by_rank: bool = True):
    """A rank's run: losses and weights. steps: how many, or how many for each rank."""
    model = make_model(world.rank if seed_by_rank else 0)  # all begin with rank 0's, whatever they had
    optimizer = transform(OPTIMIZERS[name](model.parameters()), world)
    steps = steps if isinstance(steps, int) else steps[world.rank]
    return descend(model, optimizer, world.rank, steps), weights(model)


def mean(models: list[nn.Module], shares: list[float] | None = None) -> list[torch.Tensor]:
    shares = shares or [1 / len(models)] * len(models)
    sums = zip(*(m.parameters() for m in models), strict=True)
    return [sum(s * p.detach() for s, p in zip(shares, ps, strict=True)) for ps in sums]


def assign(model: nn.Module, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(model.parameters(), values, strict=True):
            p.copy_(value)


def rounds_alone(ranks: int, name: str, steps: list[int], n_round: int, shares=None, outer=None):
    """The algorithms, in one process: each takes its steps, then all meet. Give each rank's losses and weights."""
    models = [make_model() for _ in range(ranks)]
    optimizers = [OPTIMIZERS[name](model.parameters()) for model in models]
    losses = [[] for _ in range(ranks)]
    common = [nn.Parameter(p.detach().clone()) for p in models[0].parameters()]
    outer = outer and outer(common)
    for i in range(n_round):
        for rank in range(ranks):
            losses[rank].append(descend(models[rank], optimizers[rank], rank, steps[rank], i * steps[rank]))
        met = mean(models, shares)
        if outer:
            for w, p in zip(common, met, strict=True):
                w.grad = w.detach() - p
            outer.step()
            met = [w.detach() for w in common]
        for model in models:
            assign(model, met)
    return [(torch.cat(own), weights(model)) for own, model in zip(losses, models, strict=True)]


def distance(one, many) -> float:
    return max(((a - b).norm() / a.norm()).item() for a, b in zip(one, many, strict=True))


def furthest(alone, run) -> float:
    return max(distance(a, b) for a, b in zip(alone, run.results, strict=True))


def every_3(optimizer, world):
    return local_sgd(optimizer, world, every=3)


def torch_nesterov(parameters):
    return torch.optim.SGD(parameters, lr=0.7, momentum=0.9, nesterov=True)


# --- local SGD and FedAvg ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_local_sgd_averages_the_weights_every_third_step(ranks, name):
    assert furthest(rounds_alone(ranks, name, [3] * ranks, 3), numbers(ranks).run(train, every_3, name, 9)) < 1e-9


def test_between_two_averages_ranks_go_their_own_ways():
    results = numbers(2).run(train, every_3, "SGD", 5).results
    assert (results[0][1] - results[1][1]).norm() > 1e-3


def test_with_one_local_step_and_plain_sgd_it_is_data_parallelism():
    def worker(world, name, local):
        model = make_model()
        optimizer = OPTIMIZERS[name](model.parameters())
        if local:
            local_sgd(optimizer, world, every=1)
        else:
            data_parallel(model, world)
        return descend(model, optimizer, world.rank, 6), weights(model)

    def apart(name):
        runs = [numbers(3).run(worker, name, local).results for local in (True, False)]
        return max(distance(a, b) for a, b in zip(*runs, strict=True))

    assert apart("SGD") < 1e-12
    assert apart("AdamW") > 1e-3  # a mean of Adam's steps is not Adam's step along the mean


def test_fedavg_weighs_ranks_by_their_examples_and_lets_them_take_unequal_steps():
    examples, steps = [8, 24, 16], [1, 3, 2]

    def transform(optimizer, world):
        return local_sgd(optimizer, world, every=steps[world.rank], n_examples=examples[world.rank])

    alone = rounds_alone(3, "SGD", steps, 4, shares=[n / 48 for n in examples])
    run = numbers(3).run(train, transform, "SGD", [4 * n for n in steps])
    assert furthest(alone, run) < 1e-9
    assert furthest(rounds_alone(3, "SGD", steps, 4), run) > 1e-3  # the plain mean is another algorithm


def test_a_round_of_fedavg_leaves_out_who_has_no_part_in_it():
    def worker(world, examples):
        model = make_model(world.rank)
        average_weights(model.parameters(), world, examples[world.rank])
        return weights(model)

    wanted = (weights(make_model(0)) + 3 * weights(make_model(2))) / 4
    for got in numbers(3).run(worker, [10, 0, 30]).results:
        torch.testing.assert_close(got, wanted)
    with pytest.raises(ValueError, match="a rank with examples, got 0 on every rank"):
        numbers(2).run(worker, [0, 0])
    with pytest.raises(ValueError, match="of at least 0; got -1"):
        numbers(2).run(worker, [-1, 2])


def test_real_processes_meet_as_simulated_ones_do():
    def transform(optimizer, world):
        return local_sgd(optimizer, world, every=2, n_examples=1 + world.rank)

    with Processes(2, timeout_s=60) as live:
        real, simulated = (engine.run(train, transform, "AdamW", 4) for engine in (live, numbers(2)))
        assert furthest(simulated.results, real) < 1e-12
        assert [real.trace.comm_bytes(r) for r in (0, 1)] == [simulated.trace.comm_bytes(r) for r in (0, 1)]
        real = live.run(train, partial(diloco, every=2), "AdamW", 4)
        assert furthest(rounds_alone(2, "AdamW", [2, 2], 2, outer=torch_nesterov), real) < 1e-9


# --- DiLoCo -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 3])
def test_diloco_is_its_algorithm(ranks):
    alone = rounds_alone(ranks, "AdamW", [4] * ranks, 3, outer=torch_nesterov)
    assert furthest(alone, numbers(ranks).run(train, partial(diloco, every=4), "AdamW", 12)) < 1e-9


def test_diloco_with_a_plain_outer_step_of_1_is_local_sgd():
    def transform(optimizer, world):
        return diloco(optimizer, world, every=3, make_outer=lambda ps: optim.SGD(ps, lr=1.0))

    runs = [numbers(2).run(train, how, "momentum", 6) for how in (transform, every_3)]
    assert furthest(runs[0].results, runs[1]) < 1e-12


def test_all_ranks_hold_the_same_bits_after_they_met():
    for how in (every_3, partial(diloco, every=3)):
        results = numbers(3).run(train, how, "AdamW", 6).results
        assert all(torch.equal(w, results[0][1]) for _, w in results)


# --- bytes, meta, describe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3, 7])
def test_every_rank_hands_over_its_weights_once_per_average(every):
    start, steps = 8 * N, 14
    plain = numbers(3).run(train, partial(local_sgd, every=every), "SGD", steps).trace
    weighed = numbers(3).run(train, partial(local_sgd, every=every, n_examples=5), "SGD", steps).trace
    outer = numbers(3).run(train, partial(diloco, every=every), "SGD", steps).trace
    for rank in range(3):
        once = start if rank == 0 else 0
        assert plain.comm_bytes(rank) == outer.comm_bytes(rank) == once + steps // every * 8 * N
        assert weighed.comm_bytes(rank) == once + steps // every * (8 * N + 8)


def test_meta_tensors_give_the_same_bytes_and_virtual_time():
    def worker(world, how):
        model = Transformer(Config(vocab_size=17, d_model=8, n_layer=1, n_head=2, max_seq=6)).to(world.device)
        optimizer = how(optim.AdamW(model.parameters()), world)
        tokens = torch.zeros(2, 6, dtype=torch.long, device=world.device)
        for _ in range(2):
            model.loss(tokens, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()

    for how in (partial(local_sgd, every=2), partial(diloco, every=2)):
        runs = [Simulator(2, numerics=numerics).run(worker, how) for numerics in (True, False)]
        assert runs[0].seconds == runs[1].seconds
        assert runs[0].trace.comm_bytes() == runs[1].trace.comm_bytes()


def test_describe_shows_the_swapped_step():
    class Step:
        model = make_model()
        optimizer = OPTIMIZERS["SGD"](model.parameters())

    def worker(world):
        local_sgd(Step.optimizer, world)
        return describe(Step)

    assert "optimizer.step = step_and_meet" in " ".join(numbers(1).run(worker).results[0].split())


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [local_sgd, diloco])
@pytest.mark.parametrize("every", [0, -3, 2.5, True])
def test_every_wants_a_step_or_more_and_is_refused_before_anything_is_sent(transform, every, monkeypatch):
    monkeypatch.setattr(module, "begin_alike", lambda *args: pytest.fail("something was sent"))
    with pytest.raises(ValueError, match=f"of at least 1; got {every!r}"):
        numbers(2).run(train, partial(transform, every=every), "SGD", 1)
    with pytest.raises(ValueError, match="of at least 0; got -3"):
        numbers(2).run(train, partial(local_sgd, n_examples=-3), "SGD", 1)


def test_a_sum_in_place_of_the_mean_fails_the_comparison(monkeypatch):
    def summed(tensors, group, weight=None):
        for x in tensors:
            x.copy_(group.all_reduce(x))

    monkeypatch.setattr(module, "average_", torch.no_grad()(summed))
    for how, outer in ((every_3, None), (partial(diloco, every=3), torch_nesterov)):
        alone = rounds_alone(2, "SGD", [3, 3], 2, outer=outer)
        assert furthest(alone, numbers(2).run(train, how, "SGD", 6)) > 1e-2


def test_an_outer_gradient_of_the_wrong_sign_fails_the_comparison(monkeypatch):
    mean_of = module.average_
    monkeypatch.setattr(module, "average_", lambda xs, group: (mean_of(xs, group), torch._foreach_neg_(xs)))
    alone = rounds_alone(2, "SGD", [3, 3], 2, outer=torch_nesterov)
    assert furthest(alone, numbers(2).run(train, partial(diloco, every=3), "SGD", 6)) > 1e-2


def test_ranks_that_do_not_begin_alike_fail_the_comparison(monkeypatch):
    def as_they_are(call, optimizer, group):
        return [p for param_group in optimizer.param_groups for p in param_group["params"]]

    monkeypatch.setattr(module, "begin_alike", as_they_are)
    assert furthest(rounds_alone(2, "SGD", [3, 3], 2), numbers(2).run(train, every_3, "SGD", 6)) > 1e-2
