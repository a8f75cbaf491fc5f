"""Expert parallelism equals the same mixture on one process, drops what it says, and sends the closed form's bytes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from llmlab.comm.mesh import Mesh
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.cost.modes.expert import balance_bytes, dense_param, even_load, exchange_bytes, expert_param
from llmlab.model import Config, Transformer
from llmlab.model.moe import update_bias
from llmlab.parallel import expert
from llmlab.parallel.data import reduce_gradients
from llmlab.parallel.expert import Elsewhere, expert_parallel, expert_parameters, global_balance, mixtures
from tests.parallel.comparing import numbers, sent

CONFIG = Config(
    vocab_size=17, d_model=8, n_layer=1, n_head=2, max_seq=5, n_expert=4, balance_loss=0.5, dtype=torch.float64
)
BATCH, LR = 12, 0.5
VARIANTS = {
    "top-2": {},
    "top-1": {"n_expert_active": 1},
    "top-3 of swiglu, two layers, shared": {"n_expert_active": 3, "mlp": "swiglu", "n_layer": 2, "n_expert_shared": 2},
}
State = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]  # losses, the last gradients, weights


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets, [12, 5] each; some targets do not count, and not equally many on every rank."""
    tokens, targets = torch.randint(0, 17, (2, BATCH, 5), generator=torch.Generator().manual_seed(step))
    targets[0, :4].fill_(-100)
    return tokens, targets


def make_model(config: Config) -> Transformer:
    model = Transformer(config)
    for moe in mixtures(model):
        moe.router.weight.data.mul_(50)  # decided enough for shares to differ: near even ones hide mistakes
    return model


def train_alone(config: Config, dispatch=None, bias_rate: float = 0.0, steps: int = 3) -> State:
    """The reference: the mixture on one process, the whole batch at once."""
    model, losses = make_model(config), []
    for moe in mixtures(model):
        moe.dispatch = dispatch or moe.dispatch
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(steps):
        optimizer.zero_grad()
        loss = model.loss(*batch(step))
        loss.backward()
        optimizer.step()
        update_bias(model, bias_rate)
        losses.append(loss.detach())
    return torch.stack(losses), gradients(model), model.state_dict()


alone = cache(train_alone)


def gradients(model: Transformer) -> dict[str, Tensor]:
    """By name; an expert that the plain dispatch never called has zero."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def train(world, config: Config, ep: int, bias_rate: float = 0.0, steps: int = 3) -> State:
    """The same on many ranks: each takes its rows, experts are dealt out over `ep` of them, copies of them added up."""
    mesh = Mesh(world, edp=world.size // ep, ep=ep)
    model, losses = expert_parallel(global_balance(make_model(config), world), mesh["ep"]), []
    routed = expert_parameters(model)
    dense = [p for p in model.parameters() if all(p is not other for other in routed)]
    reduce_gradients(dense, world, bucket_mb=0.001, op="sum")
    reduce_gradients(routed, mesh["edp"], bucket_mb=0.001, op="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(steps):
        tokens, targets = batch(step)
        mine = slice(world.rank * BATCH // world.size, (world.rank + 1) * BATCH // world.size)
        optimizer.zero_grad()
        loss = model.loss(tokens[mine], targets[mine], reduction="sum") / (targets != -100).sum()
        loss.backward()
        optimizer.step()
        update_bias(model, bias_rate)
        losses.append(world.all_reduce(loss.detach()))
    return torch.stack(losses), gradients(model), model.state_dict()


def distance(one: State, many: State) -> float:
    """The largest difference of losses, gradients and weights, each relative to its whole norm."""
    apart = [((one[0] - many[0]).norm() / one[0].norm()).item()]
    for a, b in zip(one[1:], many[1:], strict=True):
        difference = torch.cat([(a[name] - b[name]).flatten() for name in b])
        apart.append((difference.norm() / torch.cat([x.flatten() for x in a.values()]).norm()).item())
    return max(apart)


def all_are(one: State, results: list[State]) -> bool:
    """Whether every rank equals one process in all it holds, and the ranks together hold all there is."""
    names = {name for _, grads, _ in results for name in grads}
    return names == set(one[1]) and all(distance(one, many) < 1e-9 for many in results)


@pytest.mark.parametrize(("ranks", "n_expert"), [(1, 4), (2, 4), (3, 6), (4, 4)])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_losses_gradients_and_weights_after_3_steps_are_the_single_processs(ranks, n_expert, options):
    config = replace(CONFIG, n_expert=n_expert, **options)
    assert all_are(alone(config), numbers(ranks).run(train, config, ranks).results)


@pytest.mark.parametrize(("ranks", "ep"), [(4, 2), (6, 3), (3, 1)])
def test_copies_of_an_expert_on_several_ranks_are_trained_alike(ranks, ep):
    config = replace(CONFIG, n_expert=6)
    results = numbers(ranks).run(train, config, ep).results
    assert all_are(alone(config), results)
    for rank, (_, _, weights) in enumerate(results):
        for other in results[rank % ep :: ep]:  # they hold the same experts
            assert weights.keys() == other[2].keys()
            assert all(torch.equal(weights[name], other[2][name]) for name in weights)


def test_experts_that_get_no_token_are_no_exception():
    config = replace(CONFIG, n_expert=8, n_expert_active=1)
    one = train_alone(config)
    unused = [name for name, grad in one[1].items() if "experts" in name and not grad.any()]
    assert unused
    assert all_are(one, numbers(4).run(train, config, 4).results)


def test_two_processes_train_as_one_and_hand_over_the_simulators_bytes():
    with Processes(2) as live:
        for options in ({}, {"n_expert_active": 1, "n_expert_shared": 1}):
            config = replace(CONFIG, **options)
            real, simulated = (engine.run(train, config, 2) for engine in (live, numbers(2)))
            assert all_are(alone(config), real.results)
            for rank in range(2):
                assert sorted(sent(real, rank)) == sorted(sent(simulated, rank))


def test_fp32_differs_from_one_process_by_rounding_only():
    config = replace(CONFIG, dtype=torch.float32)
    one, results = alone(config), numbers(4).run(train, config, 4).results
    # fp32 rounds by 6e-8; a gradient adds up 60 tokens, in another order, and 3 steps of lr 0.5 carry it on
    assert all(distance(one, many) < 6e-8 * 60 * 3 for many in results)


# --- balance ----------------------------------------------------------------------------------------------------------


def test_a_bias_balances_on_many_ranks_as_on_one():
    config = replace(CONFIG, balance_loss=0.0, n_expert=6)
    one = alone(config, bias_rate=0.05)
    biases = {name for name in one[2] if name.endswith("mlp.bias")}
    assert biases and all(one[2][name].any() for name in biases)
    results = numbers(3).run(train, config, 3, bias_rate=0.05).results
    assert all_are(one, results)
    assert all(torch.equal(one[2][name], many[2][name]) for many in results for name in biases)


def test_judging_the_balance_on_each_rank_alone_is_another_loss(monkeypatch):
    monkeypatch.setitem(train.__globals__, "global_balance", lambda model, group: model)
    assert all(distance(alone(CONFIG), many) > 1e-4 for many in numbers(4).run(train, CONFIG, 4).results)


# --- capacity ---------------------------------------------------------------------------------------------------------


def dispatch_plainly(tokens, choice, weights, experts, capacity_factor, *, sources: int) -> Tensor:
    """What dropping means, in words of one token: each source hands an expert at most its capacity.

    First choices go before second ones, earlier tokens before later ones (Lepikhin et al. 2021, algorithm 1).
    """
    outputs = []
    for x, chosen, weight in zip(tokens.chunk(sources), choice.chunk(sources), weights.chunk(sources), strict=True):
        n, k = chosen.shape
        room = [math.ceil(capacity_factor * n * k / len(experts))] * len(experts)
        y = [torch.zeros_like(token) for token in x]
        for j in range(k):
            for i in range(n):
                e = int(chosen[i, j])
                if room[e]:
                    room[e] -= 1
                    y[i] = y[i] + weight[i, j] * experts[e](x[i])
        outputs += y
    return torch.stack(outputs)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 2])
def test_capacity_is_counted_per_rank_that_tokens_come_from(factor, k):
    config = replace(CONFIG, n_expert=6, capacity_factor=factor, n_expert_active=k)
    one = train_alone(config, partial(dispatch_plainly, sources=3))
    assert all_are(one, numbers(3).run(train, config, 3).results)


def test_capacity_counted_over_all_ranks_would_drop_others():
    config = replace(CONFIG, n_expert=6, capacity_factor=1.0)
    together = train_alone(config, partial(dispatch_plainly, sources=1))
    assert all(distance(together, many) > 1e-3 for many in numbers(3).run(train, config, 3).results)


# --- planted mistakes -------------------------------------------------------------------------------------------------


def caught(ranks: int = 2) -> bool:
    """Whether the comparison sees that something is wrong, on every rank."""
    return all(distance(alone(CONFIG), many) > 1e-4 for many in numbers(ranks).run(train, CONFIG, ranks).results)


def test_adding_up_the_experts_gradients_over_all_ranks_is_caught(monkeypatch):
    monkeypatch.setitem(train.__globals__, "expert_parameters", lambda model: [])  # then they count as dense
    assert caught()


def test_tokens_that_come_back_in_another_order_are_caught(monkeypatch):
    exchange = expert.exchange
    monkeypatch.setattr(expert, "exchange", lambda parts, group: [x.roll(1, 0) for x in exchange(parts, group)])
    assert caught()


def test_losing_the_gradients_that_come_back_from_other_ranks_is_caught(monkeypatch):
    def lose(ctx, *grads):
        back = expert.exchange(grads, ctx.group)
        return None, *(g if rank == ctx.group.rank else torch.zeros_like(g) for rank, g in enumerate(back))

    monkeypatch.setattr(expert._Exchange, "backward", staticmethod(lose))
    assert caught()


# --- cost -------------------------------------------------------------------------------------------------------------


def pairs(config: Config, ranks: int, step: int) -> list[list[tuple[int, int]]]:
    """(sent, received) of every rank and layer, counted on one process from the whole batch's choices."""
    model, chosen = make_model(config), []
    for moe in mixtures(model):
        moe.dispatch = partial(note_choice, chosen, moe.dispatch)
    model(batch(step)[0])
    owner = config.n_expert // ranks
    return [
        [(len(choice.chunk(ranks)[r].flatten()), int((choice // owner == r).sum())) for choice in chosen]
        for r in range(ranks)
    ]


def note_choice(chosen, dispatch, tokens, choice, *rest):
    chosen.append(choice)
    return dispatch(tokens, choice, *rest)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rank_hands_over_the_bytes_of_the_closed_form(ranks, dtype):
    config = replace(CONFIG, dtype=dtype)
    run, loads = numbers(ranks).run(train, config, ranks, steps=1), pairs(config, ranks, 0)
    assert len({load for load in loads[0] + loads[-1]}) > 1  # not all even
    for rank in range(ranks):
        sums = balance_bytes(config) + dense_param(config) * dtype.itemsize + dtype.itemsize  # and the loss
        assert run.trace.comm_bytes(rank, op="all_to_all") == exchange_bytes(config, loads[rank])
        assert run.trace.comm_bytes(rank, op="all_reduce") == sums


def step_without_numbers(world, config: Config) -> int:
    model = expert_parallel(global_balance(Transformer(config), world), world).to(world.device)
    tokens = torch.zeros(3, 5, dtype=torch.long, device=world.device)
    model.loss(tokens, tokens).backward()
    return sum(p.numel() for p in expert_parameters(model))


@pytest.mark.parametrize("factor", [None, 0.7])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_without_numerics_every_expert_gets_its_even_share(ranks, factor):
    config = replace(CONFIG, n_expert=12, capacity_factor=factor, n_expert_active=3)
    run = Simulator(ranks, numerics=False).run(step_without_numbers, config)
    for rank in range(ranks):
        loads = [even_load(config, 15, ranks, rank)] * config.n_layer
        assert run.trace.comm_bytes(rank, op="all_to_all") == exchange_bytes(config, loads)
    assert run.results == [expert_param(config, ranks)] * ranks


def test_with_and_without_numerics_the_same_messages_are_sent():
    runs = [Simulator(2, numerics=numerics).run(step_without_numbers, CONFIG) for numerics in (True, False)]
    numeric, meta = ([(e.op, e.axis) for e in run.trace.select(rank=0, stream="comm")] for run in runs)
    assert numeric == meta


def test_the_parameters_of_experts_and_the_rest_add_up_to_the_models():
    for options in VARIANTS.values():
        config = replace(CONFIG, **options)
        model = Transformer(config)
        assert expert_param(config) == sum(p.numel() for p in expert_parameters(model))
        assert dense_param(config) + expert_param(config) == sum(p.numel() for p in model.parameters())


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_rank_holds_its_experts_under_their_own_names_and_nothing_of_the_others():
    def names(world):
        model = expert_parallel(Transformer(CONFIG), world)
        places = [e.rank for e in mixtures(model)[0].experts if isinstance(e, Elsewhere)]
        return [n for n, _ in model.named_parameters() if "0.mlp.experts" in n and n.endswith("up.weight")], places

    for rank, (held, elsewhere) in enumerate(numbers(2).run(names).results):
        assert held == [f"blocks.0.mlp.experts.{e}.up.weight" for e in range(2 * rank, 2 * rank + 2)]
        assert elsewhere == [1 - rank, 1 - rank]


@pytest.mark.parametrize(
    ("options", "ranks", "says"),
    [({"n_expert": 3}, 2, "3 experts do not split over world=2"), ({"n_expert": 0}, 2, "wants a model with experts")],
)
def test_what_cannot_be_split_is_refused(options, ranks, says):
    with pytest.raises(ValueError, match=says):
        numbers(ranks).run(lambda world: expert_parallel(Transformer(replace(CONFIG, **options)), world) and None)


def test_splitting_twice_is_refused():
    with pytest.raises(ValueError, match="split already"):
        numbers(2).run(lambda world: expert_parallel(expert_parallel(Transformer(CONFIG), world), world) and None)
