"""Reinforcement learning on two groups of ranks: some generate answers, the others train on them.

    generators  ranks 2, 3   answers to batch 0   | batch 1   | batch 2   | ...      with weights that are `staleness`
                              \\ rollouts           \\           \\                    updates old
    trainers    ranks 0, 1      (wait)             train 0  /  train 1  /  train 2
                                                           / weights   / weights

With staleness=0 the generators wait for each update and the trainers for each batch: at any time one group is idle.
With staleness=s batch t comes from the weights after update t - s, so both work at once, on data that is older than the
weights it trains. Noukhovitch et al. 2024, "Asynchronous RLHF"; Fu et al. 2025, "AReaL". Trainers share each batch and
average their gradients (data.py). Seam: parameter gradients; weights go out after each `optimizer.step`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmlab.arguments import function, instance, real, whole
from llmlab.comm.call import Handle
from llmlab.comm.group import Group
from llmlab.generation.rollouts import group_advantages, log_probabilities, policy_loss, roll_out
from llmlab.model import Transformer
from llmlab.model.initial import key_of
from llmlab.optim import make_over
from llmlab.parallel.data import broadcast_weights, data_parallel

Prompts = Callable[[int], Tensor]  # step -> [P, T]
Reward = Callable[[Tensor], Tensor]  # [N, T + new] -> [N]


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked, and how an answer is scored.

    prompts(step): the prompts of a step, [P, T], the same on every rank.  reward(tokens): a number for each prompt with
    its answer.  new: tokens in an answer.  group: answers to each prompt.
    """

    prompts: Prompts
    reward: Reward
    new: int
    group: int = 8

    def __post_init__(self) -> None:
        function("Task", "prompts", self.prompts, "step")
        function("Task", "reward", self.reward, "tokens")
        whole("Task", "new", self.new, least=1)
        whole("Task", "group (one answer has nobody to be compared with)", self.group, least=2)


def reinforce(
    model: Transformer,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    task: Task,
    world: Group,
    *,
    steps: int,
    generators: int | None = None,
    staleness: int = 0,
    clip: float | None = 0.2,
    seed: int = 0,
) -> list[float]:
    """Train the model on its own answers, in place; give the mean reward of each step's answers, on every rank.

    Every rank begins with the weights of rank 0. generators: how many ranks, the last ones, generate (default: half);
    on a world of one it does both. Who generates and who trains changes nothing but the time: the weights after the
    last step, on the trainers, are one process's. Only parameters that require a gradient are trained and sent.
    """
    generators = world.size // 2 if generators is None else generators
    _check(model, task, world, steps, generators, staleness, clip)
    plan = _Plan(task, world, generators, staleness, steps, seed)
    plan.prompts(0)
    model.to(world.device)
    broadcast_weights(model, world)
    if world.size == 1:
        return _both(plan, model, make_optimizer, clip)
    if world.rank >= plan.trainers:
        return _generate(plan, model)
    return _train(plan, model, make_optimizer, clip)


def sync_bytes(model: nn.Module, steps: int, generators: int, staleness: int = 0) -> int:
    """Count the bytes of weights that the trainers hand over: to each generator, but for what nobody generates with."""
    once = sum(p.numel() * p.element_size() for p in trained(model))
    return max(0, steps - 1 - staleness) * generators * once


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


class _Plan:
    """Who does what: prompt p of a step is answered by generator p mod g and trained on by trainer p mod r."""

    def __init__(self, task: Task, world: Group, generators: int, staleness: int, steps: int, seed: int):
        self.task, self.world, self.staleness, self.steps, self.seed = task, world, staleness, steps, seed
        self.generators, self.trainers = generators, world.size - generators
        mine = world.rank < self.trainers
        members = world.members[: self.trainers] if mine else world.members[self.trainers :]
        place = world.rank if mine else world.rank - self.trainers
        self.group = Group(members, place, "trainers" if mine else "generators", world.engine)

    def prompts(self, step: int) -> Tensor:
        prompts = self.task.prompts(step).to(self.world.device)
        for n, who in ((max(1, self.generators), "generators"), (max(1, self.trainers), "trainers")):
            if len(prompts) % n:
                raise ValueError(f"a step's prompts want to divide by the {n} {who}, got {len(prompts)} prompts")
        return prompts

    def answer(self, model: Transformer, step: int, prompts: Tensor, which: list[int]) -> tuple[Tensor, Tensor]:
        """Draw the answers to some of a step's prompts, [n G, T + new], with ln p of each token drawn, [n G, new]."""
        group = self.task.group
        seeds = [key_of(self.seed, step, p, i) for p in which for i in range(group)]
        tokens = roll_out(model, prompts[which].repeat_interleave(group, 0), self.task.new, seeds)
        with torch.no_grad():
            return tokens, log_probabilities(model, tokens, self.task.new)

    def share(self, prompts: Tensor, generator: int, trainer: int) -> list[int]:
        """Which prompts this generator answers for this trainer."""
        return [p for p in range(generator, len(prompts), self.generators) if p % self.trainers == trainer]

    def like(self, prompts: Tensor, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What the answers to n prompts look like, for a receive."""
        rows, new = n * self.task.group, self.task.new
        return prompts.new_empty(rows, prompts.shape[1] + new), prompts.new_empty(rows, new, dtype=dtype)


class _Update:
    """One update from a batch of answers."""

    def __init__(
        self, plan: _Plan, model: Transformer, make_optimizer: Callable[..., torch.optim.Optimizer], clip: float | None
    ):
        self.plan, self.model, self.clip = plan, model, clip
        self.optimizer = make_over("reinforce", make_optimizer, trained(model))

    def __call__(self, tokens: Tensor, drawn_at: Tensor) -> Tensor:
        """Make it; give the answers' mean reward."""
        task = self.plan.task
        rewards = task.reward(tokens).to(drawn_at.dtype)
        advantages = group_advantages(rewards, task.group)
        self.optimizer.zero_grad()
        policy_loss(log_probabilities(self.model, tokens, task.new), drawn_at, advantages, self.clip).backward()
        self.optimizer.step()
        return rewards.mean()


def _both(
    plan: _Plan, model: Transformer, make_optimizer: Callable[..., torch.optim.Optimizer], clip: float | None
) -> list[float]:
    """Generate and train by turns, in one process: what the two groups do together."""
    update, rewards = _Update(plan, model, make_optimizer, clip), []
    waiting: deque[tuple[Tensor, Tensor]] = deque()  # batches that were generated ahead of their update
    for step in range(plan.steps + plan.staleness):
        if step < plan.steps:
            prompts = plan.prompts(step)
            waiting.append(plan.answer(model, step, prompts, list(range(len(prompts)))))
        if step >= plan.staleness:
            rewards.append(update(*waiting.popleft()))
    return torch.stack(rewards).tolist()


def _generate(plan: _Plan, model: Transformer) -> list[float]:
    """Answer each step's prompts with the weights after update step - staleness, and hand the answers over."""
    rewards, going = [], list[Handle[None]]()
    source = plan.group.rank % plan.trainers  # the trainers share the sending
    for step in range(plan.steps):
        if step > plan.staleness:
            _unflatten(plan.world.recv(_flatten(trained(model)), source), trained(model))
        prompts = plan.prompts(step)
        with plan.world.span("generate"):
            which = list(range(plan.group.rank, len(prompts), plan.generators))
            tokens, drawn_at = plan.answer(model, step, prompts, which)
            rewards.append(plan.task.reward(tokens).to(drawn_at.dtype).mean())
        for trainer in range(plan.trainers):
            rows = _rows([which.index(p) for p in plan.share(prompts, plan.group.rank, trainer)], plan.task.group)
            if rows:
                going += [plan.world.isend(x[rows], trainer) for x in (tokens, drawn_at)]
    for handle in going:
        handle.wait()
    return plan.group.all_reduce(torch.stack(rewards), "avg").tolist()


def _train(
    plan: _Plan, model: Transformer, make_optimizer: Callable[..., torch.optim.Optimizer], clip: float | None
) -> list[float]:
    """Train on each step's answers, as they come, and hand the weights out where someone still generates with them."""
    data_parallel(model, plan.group, init_sync=False)
    update, rewards = _Update(plan, model, make_optimizer, clip), []
    like = next(model.parameters())
    served = [g for g in range(plan.generators) if g % plan.trainers == plan.group.rank]
    going: deque[list[Handle[None]]] = deque()
    for step in range(plan.steps):
        prompts, parts, order = plan.prompts(step), [], list[int]()
        for generator in range(plan.generators):
            which = plan.share(prompts, generator, plan.group.rank)
            if which:
                source = plan.trainers + generator
                parts.append([plan.world.recv(x, source) for x in plan.like(prompts, len(which), like.dtype)])
                order += which
        rows = _rows(sorted(range(len(order)), key=order.__getitem__), plan.task.group)
        with plan.world.span("train"):
            rewards.append(update(*(torch.cat(x)[rows] for x in zip(*parts, strict=True))))
        if step + 1 + plan.staleness < plan.steps:
            weights = _flatten(trained(model))
            going.append([plan.world.isend(weights, plan.trainers + generator) for generator in served])
        if len(going) > plan.staleness + 1:  # taken by now: the batch just trained on was made with later ones
            for handle in going.popleft():
                handle.wait()
    for handle in (each for handles in going for each in handles):
        handle.wait()
    return plan.group.all_reduce(torch.stack(rewards), "avg").tolist()


def _rows(places: list[int], group: int) -> list[int]:
    """The rows of whole groups."""
    return [place * group + i for place in places for i in range(group)]


def _flatten(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parameters])


def _unflatten(flat: Tensor, parameters: list[nn.Parameter]) -> None:
    for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.data.copy_(piece.view_as(p))


def _check(
    model: Transformer, task: Task, world: Group, steps: int, generators: int, staleness: int, clip: float | None
) -> None:
    instance("reinforce", "model", model, Transformer)
    instance("reinforce", "task", task, Task)
    instance("reinforce", "world", world, Group, "the worker's first argument")
    whole("reinforce", "steps", steps, least=1)
    whole("reinforce", "staleness (updates)", staleness, least=0)
    if world.size > 1:
        whole("reinforce", "generators (so that a trainer is left)", generators, least=1, most=world.size - 1)
    if clip is not None:
        real("reinforce", "clip (None: plain REINFORCE)", clip, above=0)
    if not trained(model):
        raise ValueError("reinforce wants a model with something to train, got one that is frozen")
    if len({p.dtype for p in trained(model)}) > 1:
        raise ValueError("reinforce sends the trained weights as one tensor of one dtype, got several")
    if world.device.type == "meta":
        raise ValueError("reinforce trains on answers that are drawn, so it wants values: numerics=True, got False")
