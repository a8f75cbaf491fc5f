"""Numbers to codes of a few bits and back: what `quantize` rounds by, as functions of tensors.

R rows (1 where all share one scale), N groups of a row, K numbers of a group.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from llmlab.arguments import whole

Groups = Float[Tensor, "R N K"]


def grouped(weight: Float[Tensor, "O I"], group: int | str) -> Groups:
    """Cut rows into groups that share a scale: [O, groups, numbers of a group], or for "tensor" all in one."""
    if weight.dim() != 2:
        raise ValueError(f"quantize wants matrices, got a weight of shape {list(weight.shape)}")
    if group == "tensor":
        return weight.reshape(1, 1, -1)
    size = weight.shape[1] if group == "row" else whole("quantize", 'group (or "row", "tensor")', group, least=1)
    if weight.shape[1] % size:
        raise ValueError(f"group wants a divisor of a row's {weight.shape[1]} numbers, got {size}")
    return weight.reshape(len(weight), -1, size)


def steps(groups: Groups, bits: int, minimum: bool) -> tuple[Tensor, Tensor | None]:
    """Give the step between two codes of each group, [R, N, 1], and what code 0 stands for (None: symmetric)."""
    if minimum:
        low, high = groups.aminmax(dim=-1, keepdim=True)
        return (high - low) / (2**bits - 1), low
    return groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1), None


def round_to(groups: Tensor, scale: Tensor, low: Tensor | None, bits: int) -> UInt8[Tensor, "R N K"]:
    """Give the code nearest to each number; halves go away from 0, as in GGUF, or up where there is a minimum."""
    inverse = torch.where(scale == 0, 0, 1 / scale)
    if low is not None:
        return ((groups - low) * inverse + 0.5).trunc().clamp(0, 2**bits - 1).to(torch.uint8)
    scaled, most = groups * inverse, 2 ** (bits - 1) - 1
    nearest = (scaled.abs() + 0.5).trunc().clamp(max=most) * scaled.sign()
    return (nearest + 2 ** (bits - 1)).to(torch.uint8)


def in_half(x: Tensor) -> Tensor:
    """Store in fp16, if it can be."""
    half = x.to(torch.float16)
    if not torch.isfinite(half).all() or ((half == 0) & (x != 0)).any():
        raise ValueError(f"scales and minima are kept in fp16, 6e-8 to 65504; got {x.abs().max():.3g} as the largest")
    return half


def pack(codes: UInt8[Tensor, "O I"], bits: int) -> UInt8[Tensor, "O bytes"]:
    """Put 8 / bits neighbouring codes into each byte, the first into the lowest bits."""
    many = 8 // bits
    if codes.shape[1] % many:
        raise ValueError(f"{bits} bits want rows of a multiple of {many} numbers, got {codes.shape[1]}")
    parts = codes.view(len(codes), -1, many)
    packed = torch.zeros_like(parts[..., 0])
    for i in range(many):
        packed |= parts[..., i] << bits * i
    return packed


def unpack(packed: UInt8[Tensor, "*B bytes"], bits: int) -> UInt8[Tensor, "*B I"]:
    """Take the codes out of the bytes again."""
    parts = [packed >> bits * i & 2**bits - 1 for i in range(8 // bits)]
    return torch.stack(parts, dim=-1).flatten(-2)
