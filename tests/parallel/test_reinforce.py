"""Generators and trainers: together they do what one process does by turns, and send what the closed form says."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from llmlab.comm.errors import RankError
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.generation.rollouts import group_advantages, log_probabilities, policy_loss, roll_out
from llmlab.model import Config, Transformer, add_lora
from llmlab.parallel.reinforce import Task, reinforce, sync_bytes
from tests.parallel.comparing import numbers, weights

CONFIG = Config(vocab_size=7, d_model=8, n_layer=1, n_head=2, max_seq=8, dtype=torch.float64)
STEPS = 5


def prompts(step):
    return torch.randint(0, 7, (4, 3), generator=torch.Generator().manual_seed(step))


def threes(tokens):
    """The share of answers' tokens that are 3."""
    return (tokens[:, 3:] == 3).double().mean(1)


TASK = Task(prompts, threes, new=3, group=4)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


def train(world, staleness=0, generators=None, clip=0.2, adapters=False, steps=STEPS):
    model = Transformer(CONFIG, seed=world.rank)  # rank 0's weights count
    if adapters:
        add_lora(model, rank=2)
    rewards = reinforce(
        model, sgd, TASK, world, steps=steps, generators=generators, staleness=staleness, clip=clip, seed=3
    )
    return rewards, weights(model)


@cache
def alone(staleness, clip=0.2):
    return numbers(1).run(train, staleness, clip=clip).results[0]


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize(("ranks", "generators"), [(2, 1), (3, 1), (3, 2), (4, 2), (5, 1)])
def test_two_groups_learn_what_one_process_learns(staleness: int, ranks: int, generators: int) -> None:
    rewards, wanted = alone(staleness)
    results = numbers(ranks).run(train, staleness, generators).results
    for rank, (got, state) in enumerate(results):
        assert got == pytest.approx(rewards, abs=1e-12)
        if rank < ranks - generators:
            assert (state - wanted).norm() < 1e-12 * wanted.norm()  # fp64, five steps
    assert (wanted - weights(Transformer(CONFIG))).norm() > 1e-2  # something was learned


def test_staleness_changes_what_is_learned() -> None:
    first, later = (alone(staleness)[1] for staleness in (0, 1))
    assert (first - later).norm() > 1e-4 * first.norm()


def test_real_processes_learn_the_same() -> None:
    rewards, wanted = alone(1)
    got, state = Processes(2).run(train, 1).results[0]
    assert got == pytest.approx(rewards, abs=1e-12)
    assert (state - wanted).norm() < 1e-12 * wanted.norm()


@pytest.mark.parametrize(
    ("staleness", "generators", "adapters"), [(0, 1, False), (2, 2, False), (1, 2, True), (9, 1, False)]
)
def test_weight_sync_bytes_are_the_closed_forms(staleness: int, generators: int, adapters: bool) -> None:
    ranks, trainers = generators + 2, 2
    run = numbers(ranks).run(train, staleness, generators, adapters=adapters)
    model = Transformer(CONFIG)
    wanted = sync_bytes(add_lora(model, rank=2) if adapters else model, STEPS, generators, staleness)
    sent = sum(run.trace.comm_bytes(rank=rank, op="send") for rank in range(trainers))
    n = 8 * 2 * (8 * 2 * 2) if adapters else 8 * sum(p.numel() for p in Transformer(CONFIG).parameters())
    assert sent == wanted == max(0, STEPS - 1 - staleness) * generators * n


def test_rollout_bytes_are_tokens_and_their_log_probabilities() -> None:
    run = numbers(4).run(train, 1, 2)
    sent = sum(run.trace.comm_bytes(rank=rank, op="send") for rank in (2, 3))
    assert sent == STEPS * 4 * 4 * (6 * 8 + 3 * 8)  # 4 prompts, 4 answers each, of 6 ids and 3 numbers


def test_work_overlaps_once_answers_may_be_stale() -> None:
    by_turns, at_once = (Simulator(2).run(train, staleness).seconds for staleness in (0, 1))
    assert at_once < 0.9 * by_turns


def test_it_learns_a_reward() -> None:
    rewards = numbers(2).run(train, 0, steps=30).results[0][0]
    assert sum(rewards[-5:]) / 5 > 0.5 > 0.25 > sum(rewards[:2]) / 2  # 1/7 by chance


def test_an_answer_is_the_same_beside_whatever() -> None:
    model = Transformer(CONFIG)
    tokens = prompts(0)
    together = roll_out(model, tokens, 4, [5, 6, 7, 8])
    assert torch.equal(together[2:3], roll_out(model, tokens[2:3], 4, [7]))
    assert not torch.equal(together, roll_out(model, tokens, 4, [6, 7, 8, 9]))


def test_the_loss_is_the_papers() -> None:
    model, tokens = Transformer(CONFIG), torch.cat([prompts(0), prompts(1)], 1)
    log_p = log_probabilities(model, tokens, 3)
    by_hand = model(tokens).softmax(-1)
    assert log_p[1, 0].item() == pytest.approx(math.log(by_hand[1, 2, tokens[1, 3]].item()), abs=1e-12)
    advantages = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    gradients = []
    for clip in (0.2, None):  # just drawn: the ratio is 1, and PPO's gradient is REINFORCE's
        loss = policy_loss(log_p, log_p.detach(), advantages, clip)
        gradients.append(torch.autograd.grad(loss, log_p, retain_graph=True)[0])
    assert torch.allclose(gradients[0], gradients[1], rtol=0, atol=1e-15)
    far = policy_loss(log_p, log_p.detach() - 1, advantages.abs(), 0.2)  # e times as likely as then: no more to gain
    assert torch.equal(torch.autograd.grad(far, log_p)[0], torch.zeros_like(log_p))


def test_a_groups_mean_is_its_baseline() -> None:
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert group_advantages(rewards, 2).tolist() == [0.5, -0.5, 0.0, 0.0]


def test_what_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match="divide by the 3 trainers"):
        numbers(4).run(train, 0, 1)
    with pytest.raises(ValueError, match="so that a trainer is left"):
        numbers(2).run(train, 0, 2)
    with pytest.raises(ValueError, match="nobody to be compared with"):
        Task(prompts, threes, new=3, group=1)
    with pytest.raises((RankError, ValueError), match="numerics=True"):
        Simulator(2, numerics=False).run(train)
