"""What the modes' tests share: simulated ranks that are quick, tensors in one vector, how far apart two runs are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Run

numbers = partial(Simulator, kernels=False)  # where results and messages are compared: no time, no memory, much quicker


def joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])


def weights(model: nn.Module) -> Tensor:
    return joined(model.parameters())


def gradients(model: nn.Module) -> Tensor:
    return joined(p.grad for p in model.parameters() if p.grad is not None)


def train_plainly(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """One process in plain torch, nothing of ours but the model: losses, the last step's gradients, weights."""
    losses = []
    for tokens, targets in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), gradients(model), weights(model)


def distance(one: Iterable[Tensor], many: Iterable[Tensor]) -> float:
    """The largest difference of losses, gradients and weights, each relative to its whole norm."""
    return max(((a - b).norm() / a.norm()).item() for a, b in zip(one, many, strict=True))


def sent(run: Run, rank: int) -> list[tuple[str, int]]:
    """What a rank handed over: each operation and its bytes, in order."""
    return [(event.op, event.nbytes) for event in run.trace.select(rank=rank, stream="comm")]


def batch(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens and targets of a vocabulary of 17, [rows, 6] each; the first sequence has targets that do not count."""
    tokens, targets = torch.randint(0, 17, (2, rows, 6), generator=torch.Generator().manual_seed(seed))
    targets[0, :4].fill_(-100)
    return tokens, targets
