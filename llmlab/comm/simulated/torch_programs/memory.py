"""What a torch program's rank holds, by category, where torch's own code hides it: shards, gathered weights, gradients.

FSDP2's parameters are DTensors, counted by this rank's shard; its gathered weights live in buffers whose storage it
shrinks to nothing and grows again, and count as communication, as our own ZeRO-3's do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from llmlab.comm.simulated.torch_programs.refusals import Replaced

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank


def watch_memory(changes: Replaced, current: Callable[[], Rank | None]) -> None:
    """Count what changes hands without an operation of torch's that the recorder would see."""
    resize, add = torch.UntypedStorage.resize_, Optimizer.add_param_group

    def resize_(storage: torch.UntypedStorage, nbytes: int) -> Any:
        result = resize(storage, nbytes)
        rank = current()
        if rank is not None:
            rank.meter.resized(storage)
        return result

    def add_param_group(optimizer: Optimizer, group: dict[str, Any]) -> None:
        add(optimizer, group)
        rank = current()
        for parameter in optimizer.param_groups[-1]["params"]:
            if rank is not None and isinstance(parameter, DTensor):
                rank.meter.place(parameter, "parameters")

    changes.put(torch.UntypedStorage, "resize_", resize_)
    changes.put(Optimizer, "add_param_group", add_param_group)


def count_parameters(rank: Rank, module: nn.Module) -> None:
    """When a module is called: its own parameters, on the device now if they were not."""
    for parameter in module._parameters.values():
        if parameter is not None:
            rank.meter.claim(parameter)


def count_what_steps(rank: Rank, optimizer: Optimizer) -> None:
    """Before an optimizer's step: what it is given are parameters and their gradients."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                rank.meter.place(parameter, "parameters")
                rank.meter.place(parameter.grad, "gradients")
