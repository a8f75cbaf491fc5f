"""The shape and dtype of what follows, as a message: in a scatter only the root knows them."""

from __future__ import annotations

import torch

from llmlab.comm.call import MAX_DIM, from_header, header
from llmlab.comm.group import Group


def send_header(group: Group, shape: torch.Size, dtype: torch.dtype, dst: int) -> None:
    """Announce a tensor."""
    group.send(torch.tensor(header("scatter", shape, dtype), device=group.device), dst)


def receive_header(group: Group, src: int) -> tuple[torch.Size, torch.dtype]:
    """Hear of a tensor."""
    like = torch.empty(2 + MAX_DIM, dtype=torch.int64, device=group.device)
    return from_header(group.recv(like, src).tolist())
