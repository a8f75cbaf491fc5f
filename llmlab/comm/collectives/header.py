"""The shape and dtype of what follows, as a message: in a scatter only the root knows them."""

from __future__ import annotations

import torch

from llmlab.comm.group import Group

MAX_DIM = 8
HEADER_BYTES = 8 * (2 + MAX_DIM)  # [dtype, number of dimensions, sizes ...] in int64
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
)  # fmt: skip


def send_header(group: Group, shape: torch.Size, dtype: torch.dtype, dst: int) -> None:
    """Announce a tensor."""
    sizes = [*shape, *[0] * (MAX_DIM - len(shape))]
    group.send(torch.tensor([DTYPES.index(dtype), len(shape), *sizes], device=group.device), dst)


def receive_header(group: Group, src: int) -> tuple[torch.Size, torch.dtype]:
    """Hear of a tensor."""
    like = torch.empty(2 + MAX_DIM, dtype=torch.int64, device=group.device)
    dtype, dims, *sizes = group.recv(like, src).tolist()
    return torch.Size(sizes[:dims]), DTYPES[dtype]
