"""Small values from every rank to every rank, as JSON: what ranks have to agree on before they write or read."""

from __future__ import annotations

import json
from typing import Any

import torch

from llmlab.comm.group import Group


def everyones(world: Group | None, value: Any) -> list[Any]:
    """Give every rank's value, in the order of ranks, on every rank. Values are what JSON can say."""
    if world is None or world.size == 1:
        return [value]
    data = bytearray(json.dumps(value).encode())
    sizes = world.all_gather(torch.tensor([len(data)], device=world.device)).tolist()
    padded = torch.frombuffer(data.ljust(max(sizes), b" "), dtype=torch.uint8).to(world.device)
    texts = world.all_gather(padded).view(world.size, -1).cpu().numpy()  # [ranks, bytes]
    return [json.loads(text.tobytes()) for text in texts]


def agreed(world: Group | None, what: str, value: Any) -> Any:
    """Give the value if it is the same on every rank. Raises ValueError, on every rank, if it is not."""
    for rank, other in enumerate(values := everyones(world, value)):
        if other != values[0]:
            raise ValueError(
                f"{what} wants the same on every rank, got {values[0]!r} on rank 0 and {other!r} on rank {rank}"
            )
    return value
