"""A parameter server: synchronous it equals one process; asynchronous and stale-bounded it is what its log says."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from llmlab.comm.errors import DeadlockError
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.model import Config, Transformer
from llmlab.parallel import server
from llmlab.parallel.data import global_mean
from llmlab.parallel.inspection import describe
from llmlab.parallel.server import Server, Worker, parameter_server, share_out
from tests.parallel.comparing import batch, distance, gradients, numbers, sent, train_plainly, weights

CONFIG = Config(vocab_size=17, d_model=8, n_layer=1, n_head=2, max_seq=6, dtype=torch.float64)
OPTIMIZERS = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.5),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.2, momentum=0.9),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.01),
}


@cache
def train_alone(n_sequence: int, optimizer: str = "SGD", steps: int = 3):
    """The reference."""
    model = Transformer(CONFIG)
    batches = [batch(n_sequence, step) for step in range(steps)]
    return train_plainly(model, OPTIMIZERS[optimizer](model.parameters()), batches)


def train(world, shares: list[int], optimizer: str = "SGD", servers: int = 1, steps: int = 3):
    """The same run, synchronous: worker i takes shares[i] of the sequences."""
    model, losses = Transformer(CONFIG), []
    optimizer = parameter_server(model, OPTIMIZERS[optimizer], world, servers)
    if optimizer.serves:
        return optimizer.serve()
    for step in range(steps):
        tokens, targets = (part.split(shares)[optimizer.workers.rank] for part in batch(sum(shares), step))
        optimizer.zero_grad()
        loss_sum = cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum")
        loss = global_mean(loss_sum, (targets != -100).sum(), optimizer.workers)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    optimizer.finish()
    return torch.stack(losses), optimizer.workers.all_reduce(gradients(model), "avg"), weights(model)


# --- synchronous ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes():
    with Processes(3, timeout_s=60) as workers:
        yield workers


@pytest.mark.parametrize(
    ("servers", "shares", "optimizer"),
    [(1, [6], "Adam"), (1, [3, 3], "SGD"), (2, [2, 2, 2], "momentum"), (3, [1, 4, 1], "SGD"), (3, [1, 4, 1], "Adam")],
)
def test_synchronous_servers_train_as_one_process_does(servers, shares, optimizer):
    one = train_alone(6, optimizer)
    for many in numbers(servers + len(shares)).run(train, shares, optimizer, servers).results[servers:]:
        assert distance(one, many) < 1e-9


@pytest.mark.parametrize("speeds", [{3: 0.2}, {0: 0.1}, {1: 5.0, 2: 0.3}])
def test_synchronous_servers_do_not_mind_who_is_slow(speeds):
    one = train_alone(6)
    for many in Simulator(4, speeds=speeds).run(train, [2, 3, 1]).results[1:]:
        assert distance(one, many) < 1e-9


def test_all_workers_end_with_the_same_bits():
    results = numbers(5).run(train, [1, 2, 3], "Adam", 2).results[2:]
    assert all(torch.equal(a[2], results[0][2]) for a in results)


def test_real_processes_train_as_one_and_hand_over_the_simulators_bytes(processes):
    real, simulated = (engine.run(train, [1, 3], "Adam") for engine in (processes, numbers(3)))
    for many in real.results[1:]:
        assert distance(train_alone(4, "Adam"), many) < 1e-9
    for rank in range(3):
        assert sorted(sent(real, rank)) == sorted(sent(simulated, rank))


def test_without_the_mean_the_comparison_fails(monkeypatch):
    update = Server.update
    monkeypatch.setattr(Server, "update", lambda self: (self.total.mul_(len(self.arrived)), update(self)))
    assert all(distance(train_alone(6), many) > 0.1 for many in numbers(3).run(train, [3, 3]).results[1:])


def test_an_answer_before_all_have_pushed_fails_the_comparison(monkeypatch):
    monkeypatch.setattr(Server, "may_go_on", lambda self, rank: True)
    assert all(distance(train_alone(6), many) > 1e-3 for many in numbers(3).run(train, [3, 3]).results[1:])


# --- asynchronous and stale-bounded: against the mathematics, in one process ------------------------------------------


LR, MOMENTUM = 0.3, 0.5
HELD = {"asynchronous": None, "at most 1 apart": 1, "at most 2 apart": 2}


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM)


def make_small() -> nn.Module:
    """Six parameters of unequal sizes: what is tested here is the order of events, and these are quick."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def rows(worker: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1000 * worker + step), dtype=torch.float64)
    return x, x[:, :2].sin() + worker


def free_running(world, staleness, servers, steps: list[int], naps: list[float]):
    """Worker i takes steps[i] steps on data of its own, and sleeps naps[i] before each."""
    model, losses = make_small(), []
    optimizer = parameter_server(model, momentum, world, servers, staleness)
    if optimizer.serves:
        return optimizer.serve()
    me = optimizer.workers.rank
    for step in range(steps[me]):
        world.sleep(naps[me])
        x, y = rows(world.rank, step)
        loss = mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    optimizer.finish()
    return torch.stack(losses), weights(model)


def replay(logs):
    """w_{t+1} = w_t - lr m_t; m_t = momentum m_{t-1} + the gradient of push t, taken at what its worker had pulled.

    logs: of each server its updates. Gives the final weights, and each push's loss.
    """
    model = make_small()
    names = {p: name for name, p in model.named_parameters()}
    owned = [[names[p] for p in shard] for shard in share_out(list(model.parameters()), len(logs))]
    first = {name: p.detach() for name, p in model.named_parameters()}
    pulled = [{(u.worker, u.step): t - u.staleness for t, u in enumerate(log)} for log in logs]

    @cache
    def state(s, t):
        """Of server s after t updates: weights and momentum, by name."""
        if t == 0:
            return {n: first[n] for n in owned[s]}, {n: torch.zeros_like(first[n]) for n in owned[s]}
        (w, m), g = state(s, t - 1), push(*logs[s][t - 1][:2])[1]
        m = {n: MOMENTUM * m[n] + g[n] for n in owned[s]}
        return {n: w[n] - LR * m[n] for n in owned[s]}, m

    @cache
    def push(worker, step):
        """The loss and the gradients of one push."""
        w = {n: x for s in range(len(logs)) for n, x in state(s, pulled[s][worker, step])[0].items()}
        w = {n: x.clone().requires_grad_() for n, x in w.items()}
        x, y = rows(worker, step)
        loss = mse_loss(torch.func.functional_call(model, w, (x,)), y)
        return loss.detach(), dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))

    final = {n: x for s, log in enumerate(logs) for n, x in state(s, len(log))[0].items()}
    return torch.cat([final[n].flatten() for n in first]), lambda worker, step: push(worker, step)[0]


def check_replay(run, servers):
    final, loss = replay(run.results[:servers])
    for rank, (losses, got) in enumerate(run.results[servers:], servers):
        wanted = torch.stack([loss(rank, step) for step in range(len(losses))])
        assert distance((wanted, final), (losses, got)) < 1e-9


@pytest.mark.parametrize("staleness", HELD.values(), ids=HELD)
@pytest.mark.parametrize("servers", [1, 3])
def test_the_log_replayed_in_one_process_gives_the_same_losses_and_weights(staleness, servers):
    run = numbers(servers + 3).run(free_running, staleness, servers, [5, 4, 2], [0.001, 0.002, 0.005])
    assert any(update.staleness > 0 for update in run.results[0])
    check_replay(run, servers)


@pytest.mark.parametrize("staleness", HELD.values(), ids=HELD)
def test_the_replay_holds_on_real_processes_too(staleness, processes):
    check_replay(processes.run(free_running, staleness, 1, [3, 2], [0.0, 0.01]), 1)


def test_a_stale_gradient_taken_for_a_fresh_one_fails_the_replay():
    run = numbers(4).run(free_running, None, 1, [5, 4, 2], [0.001, 0.002, 0.005])
    log = [update._replace(staleness=0) for update in run.results[0]]
    assert (replay([log])[0] - run.results[1][1]).norm() > 1e-3


def take_steps(world, staleness, steps: list[int], naps=(0.0, 0.0, 0.0), servers=1):
    """Worker i pushes steps[i] times, and sleeps naps[i] before each: nothing but the order matters."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = parameter_server(model, momentum, world, servers, staleness)
    if optimizer.serves:
        return optimizer.serve()
    for _ in range(steps[optimizer.workers.rank]):
        world.sleep(naps[optimizer.workers.rank])
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    return optimizer.finish()


def furthest_ahead(staleness) -> int:
    """The most steps that a worker was ahead of the slowest when it began one."""
    run = numbers(4).run(take_steps, staleness, [8, 8, 8], [0.001, 0.001, 0.02])
    pushed, ahead = [0, 0, 0], 0
    for update in run.results[0]:
        ahead = max(ahead, update.step - min(pushed))
        pushed[update.worker - 1] += 1
    return ahead


def test_nobody_runs_further_ahead_than_the_bound():
    assert [furthest_ahead(bound) for bound in (1, 2, 3)] == [1, 2, 3]
    assert furthest_ahead(None) > 3


def test_without_the_bound_it_is_passed(monkeypatch):
    monkeypatch.setattr(Server, "may_go_on", lambda self, rank: True)
    assert furthest_ahead(1) > 1


def test_a_slow_worker_holds_up_the_synchronous_and_leaves_the_asynchronous_alone():
    def done(staleness):
        """Seconds until the first worker has done its steps."""
        trace = numbers(3).run(take_steps, staleness, [6, 6], [0.001, 0.1]).trace
        return trace.select(rank=1, op="recv").events[5].stop

    synchronous, bounded, asynchronous = (done(staleness) for staleness in (0, 2, None))
    assert synchronous > 0.6 > bounded > 0.3 > 0.1 > asynchronous


@pytest.mark.parametrize("staleness", [0, 1, None])
@pytest.mark.parametrize("steps", [[1, 5, 3], [0, 2, 0], [4, 0, 4]])
def test_workers_may_take_unequally_many_steps(staleness, steps):
    for log in numbers(5).run(take_steps, staleness, steps, servers=2).results[:2]:
        assert [sum(u.worker == rank for u in log) for rank in (2, 3, 4)] == steps


def test_the_same_run_twice_gives_the_same_log_and_virtual_time():
    runs = [Simulator(4).run(take_steps, None, [3, 3, 3], [0.001, 0.002, 0.005]) for _ in range(2)]
    assert runs[0].results[0] == runs[1].results[0]
    assert runs[0].seconds == runs[1].seconds


# --- bytes, memory, parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("staleness", [0, 2, None])
@pytest.mark.parametrize("servers", [1, 3])
def test_every_rank_hands_over_the_closed_forms_bytes(staleness, servers):
    steps = [3, 1, 2]
    trace = numbers(servers + 3).run(free_running, staleness, servers, steps, [0.001, 0.002, 0.005]).trace
    held = [8 * sum(p.numel() for p in shard) for shard in share_out(list(make_small().parameters()), servers)]
    asked = 3 * 8  # the settings, compared once
    for rank in range(servers):  # an answer to each push and one to each worker's finish; rank 0's weights at the start
        start = sum(held) if rank == 0 else 0
        assert trace.comm_bytes(rank) == asked + start + (sum(steps) + len(steps)) * held[rank]
    for rank, n in enumerate(steps, servers):  # a note of 2 numbers to each server, with each push and at the end
        assert trace.comm_bytes(rank) == asked + n * sum(held) + (n + 1) * servers * 16


def test_only_servers_hold_the_optimizers_state():
    run = Simulator(4).run(train, [3, 3], "Adam", 2)
    held = [8 * sum(p.numel() for p in shard) for shard in share_out(list(Transformer(CONFIG).parameters()), 2)]
    for rank in range(2):
        assert 2 * held[rank] <= run.memory[rank]["optimizer state"] < 2.1 * held[rank]  # and Adam's counters
    assert run.memory[2]["optimizer state"] == run.memory[3]["optimizer state"] == 0


def test_a_servers_model_keeps_only_what_it_serves():
    def worker(world):
        model = Transformer(CONFIG)
        optimizer = parameter_server(model, momentum, world, 2)
        optimizer.serve() if optimizer.serves else optimizer.finish()
        return sum(p.numel() for p in model.parameters())

    n = sum(p.numel() for p in Transformer(CONFIG).parameters())
    *held, whole = numbers(3).run(worker).results
    assert sum(held) == whole == n and min(held) > 0


def test_the_largest_parameters_go_first_to_whoever_has_least():
    sizes = [[p.numel() for p in shard] for shard in share_out([nn.Parameter(torch.ones(n)) for n in (2, 7, 3, 4)], 2)]
    assert sizes == [[7, 2], [4, 3]]


def test_two_shards_swapped_fail_the_comparison(monkeypatch):
    def step(world):
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
        nn.init.eye_(model[0].weight), nn.init.ones_(model[1].weight)
        optimizer = parameter_server(model, momentum, world, 2)
        if optimizer.serves:
            return optimizer.serve()
        model(torch.tensor([[1.0, 2.0, 3.0]]).double()).sum().backward()
        wanted = [p.detach() - LR * p.grad for p in model.parameters()]
        optimizer.step(), optimizer.finish()
        return max((p - q).abs().max().item() for p, q in zip(model.parameters(), wanted, strict=True))

    assert numbers(3).run(step).results[2] < 1e-12
    init = Worker.__init__
    monkeypatch.setattr(Worker, "__init__", lambda self, owned, world: init(self, owned[::-1], world))
    assert numbers(3).run(step).results[2] > 0.1


def test_frozen_parameters_are_not_served_and_unused_ones_get_a_zero_gradient():
    def worker(world):
        model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("frozen", "used", "unused")})
        model["frozen"].weight.requires_grad_(False)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(1.0 + world.rank)  # all begin with rank 0's
        optimizer = parameter_server(model, momentum, world)
        if optimizer.serves:
            return optimizer.serve()
        model["used"](model["frozen"](torch.ones(1, 1))).sum().backward()
        optimizer.step()
        optimizer.finish()
        return {name: p.item() for name, p in model.named_parameters()}

    run = numbers(3).run(worker)
    for got in run.results[1:]:
        assert got == pytest.approx({"frozen.weight": 1.0, "used.weight": 1.0 - LR, "unused.weight": 1.0})
    assert run.trace.comm_bytes(rank=1, op="send") == 2 * 4 + 2 * 16


def test_describe_says_who_serves():
    def worker(world):
        model = nn.Linear(2, 2)
        optimizer = parameter_server(model, momentum, world, staleness=3)
        optimizer.serve() if optimizer.serves else optimizer.finish()
        return describe(model)

    texts = numbers(3).run(worker).results
    assert "Server(0 of 1: 6 numbers, at most 3 steps apart)" in texts[0]
    assert "Worker(1 of 2, of 1 server)" in texts[2]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def linear_role(world, **how):
    return parameter_server(how.pop("model", nn.Linear(2, 2)), momentum, world, **how)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"servers": 0}, "so that a worker is left. as a whole number from 1 to 2; got 0"),
        ({"servers": 3}, "so that a worker is left. as a whole number from 1 to 2; got 3"),
        ({"staleness": -1}, "of at least 0; got -1"),
        ({"staleness": 0.5}, "of at least 0; got 0.5"),
        ({"model": nn.Linear(2, 2, bias=False), "servers": 2}, "want a trained parameter each, got 1"),
        ({"model": nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())}, "one dtype, got torch.float32, torch.f"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(how, said, monkeypatch):
    monkeypatch.setattr(server, "_check_alike", lambda *args: pytest.fail("something was sent"))
    with pytest.raises(ValueError, match=said):
        numbers(3).run(linear_role, **how)


def test_one_rank_alone_meta_tensors_and_a_second_server_are_refused():
    with pytest.raises(ValueError, match="at least 2 ranks, got 1"):
        numbers(1).run(linear_role)
    with pytest.raises(ValueError, match="wants values: numerics=True"):
        Simulator(2, numerics=False).run(linear_role)

    def twice(world):
        model = nn.Linear(2, 2)
        linear_role(world, model=model)
        linear_role(world, model=model)

    with pytest.raises(ValueError, match="has no server yet, got one with Server"):
        numbers(2).run(twice)


def test_settings_that_differ_between_ranks_are_refused_on_all():
    with pytest.raises(
        ValueError, match=r"same servers, staleness and model .* rank 0: \[1, 0, 6\]; rank 1: \[1, 1, 6\]"
    ):
        numbers(2).run(lambda world: linear_role(world, staleness=world.rank))


def test_a_worker_that_does_not_finish_is_a_deadlock_that_names_the_server():
    def worker(world):
        optimizer = linear_role(world)
        if optimizer.serves:
            optimizer.serve()

    with pytest.raises(DeadlockError, match="rank 0: waits in recv from any rank"):
        numbers(3).run(worker)


def test_a_worker_that_raises_ends_the_run():
    def worker(world):
        optimizer = linear_role(world)
        if optimizer.serves:
            return optimizer.serve()
        if world.rank == 2:
            raise KeyError("planted")
        return optimizer.finish()

    for engine in (numbers(3), Processes(3, timeout_s=60)):
        with pytest.raises(KeyError, match="rank 2"):
            engine.run(worker)
