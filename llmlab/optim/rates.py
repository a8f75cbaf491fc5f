"""What the learning rate is multiplied by at step 0, 1, 2 ..., and the scheduler that does it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from llmlab.arguments import function, instance, real, whole

Factor = Callable[[int], float]


def constant(step: int) -> float:
    """Keep the learning rate."""
    return 1.0


def linear(steps: int, floor: float = 0.0) -> Factor:
    """Fall in a straight line from 1 to `floor` over so many steps, then stay."""
    whole("linear", "steps", steps, least=1)
    real("linear", "floor", floor, least=0)

    def factor(step: int) -> float:
        return 1 + (floor - 1) * min(step / steps, 1)

    return factor


def cosine(steps: int, floor: float = 0.0) -> Factor:
    """Fall from 1 to `floor` along half a cosine over so many steps, then stay (Loshchilov and Hutter 2017)."""
    whole("cosine", "steps", steps, least=1)
    real("cosine", "floor", floor, least=0)

    def factor(step: int) -> float:
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2

    return factor


def warm_up(steps: int, then: Factor = constant) -> Factor:
    """Rise to 1 in so many equal steps, the first 1/steps, so none is wasted on 0; then follow `then` from its 0."""
    whole("warm_up", "steps", steps, least=0)
    function("warm_up", "then", then, "step")

    def factor(step: int) -> float:
        return (step + 1) / steps if step < steps else then(step - steps)

    return factor


class LRScheduler:
    """Set each group's learning rate to factor(step) times its first one. Call step() after the optimizer's."""

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Factor):
        instance("LRScheduler", "optimizer", optimizer, torch.optim.Optimizer)
        function("LRScheduler", "factor", factor, "step")
        self.optimizer, self.factor, self.n_step = optimizer, factor, 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # already there when the optimizer's state was loaded
        self._set()

    def step(self) -> None:
        self.n_step += 1
        self._set()

    def state_dict(self) -> dict[str, int]:
        return {"n_step": self.n_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.n_step = state["n_step"]
        self._set()

    def _set(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(self.n_step)
