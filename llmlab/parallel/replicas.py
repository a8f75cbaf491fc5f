"""Data parallelism in the terms of ZeRO, for `compose`: every rank owns, and updates, every parameter it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llmlab.comm.group import Group
from llmlab.parallel.data import reduce_gradients


class Replicas:
    """Adds the gradients of a model up over the ranks that hold the same parameters (stage 0 of ZeRO)."""

    def __init__(
        self,
        model: nn.Module,
        group_of: Callable[[nn.Parameter], Group],
        bucket_mb: float = 25,
        overlap: bool = True,
    ):
        self.owned = {parameter: parameter for parameter in model.parameters()}
        families: dict[Group, list[nn.Parameter]] = {}
        for parameter in self.owned:
            if parameter.requires_grad:
                families.setdefault(group_of(parameter), []).append(parameter)
        self.reducers = [
            reduce_gradients(family, group, bucket_mb, overlap, op="sum", finish_with_backward=False)
            for group, family in families.items()
        ]

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let gradients pile up on this rank."""
        for reducer in self.reducers:
            reducer.enabled = False
        try:
            yield
        finally:
            for reducer in self.reducers:
                reducer.enabled = True

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing to send before `finish`: every rank keeps whole gradients, and sends them once."""

    def finish(self) -> None:
        """Complete the sums, after the last backward of a step."""
        for reducer in self.reducers:
            reducer.finish()

    def publish(self) -> None:
        """Nothing to send after the optimizer's step: every rank made the same one."""

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to exchange: the optimizer updates the parameters themselves."""

    def whole(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()

    def whole_gradient(self, parameter: nn.Parameter) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
