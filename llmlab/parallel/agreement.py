"""Do all ranks still hold the same weights? The check that catches a forgotten all-reduce."""

from __future__ import annotations

from torch import nn

from llmlab.arguments import instance, whole
from llmlab.comm.group import Group


def disagreement(model: nn.Module, group: Group, step: int | None = None) -> str | None:
    """Compare every parameter with rank 0's, to the bit; say, on every rank, who left first and where. None: all agree.

    Hands over the whole model once: a check for lessons and tests, not for every step of a long run.
    """
    instance("disagreement", "model", model, nn.Module)
    instance("disagreement", "group", group, Group, "the worker's first argument")
    if step is not None:
        whole("disagreement", "step", step, least=0)
    when = "" if step is None else f" at step {step}"
    for name, parameter in model.named_parameters():
        mine = parameter.detach()
        away = (group.broadcast(mine, 0) - mine).abs().max().reshape(1)
        for rank, distance in enumerate(group.all_gather(away).tolist()):
            if distance != 0:
                return f"rank {rank}'s weights left rank 0's{when}: {name} is {distance:.1g} away"
    return None
