"""Weights in few bits: blocks of 32 numbers that share a scale, as GGUF files store them.

    Q8_0   w = d q          q from -128 to 127           34 bytes: d (fp16), 32 q
    Q4_1   w = d q + m      q from 0 to 15               20 bytes: d, m (fp16), 16 bytes of two q each

Byte j of a Q4_1 block holds q_j in its low half and q_{j+16} in its high half. (The layout is that of ggml's structs
`block_q8_0` and `block_q4_1`.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


def float32(raw: UInt8[Tensor, "N 4"]) -> Float[Tensor, "N 1"]:
    return raw.view(torch.float32)


def float16(raw: UInt8[Tensor, "N 2"]) -> Float[Tensor, "N 1"]:
    return raw.view(torch.float16).float()


def q8_0(raw: UInt8[Tensor, "N 34"]) -> Float[Tensor, "N 32"]:
    return _halves(raw[:, :2]) * raw[:, 2:].view(torch.int8)


def q4_1(raw: UInt8[Tensor, "N 20"]) -> Float[Tensor, "N 32"]:
    d, m, q = _halves(raw[:, :2]), _halves(raw[:, 2:4]), raw[:, 4:]
    return d * torch.cat((q & 15, q >> 4), dim=1) + m


def _halves(raw: UInt8[Tensor, "N 2"]) -> Float[Tensor, "N 1"]:
    return float16(raw.contiguous())


@dataclass(frozen=True)
class Packing:
    """How a type packs numbers: how many go into a block, of how many bytes, and how they come out, in fp32."""

    name: str
    numbers: int
    nbytes: int
    unpack: Callable[[Shaped[Tensor, "N nbytes"]], Shaped[Tensor, "N numbers"]]


PACKINGS = {  # by ggml's number for the type
    0: Packing("F32", 1, 4, float32),
    1: Packing("F16", 1, 2, float16),
    3: Packing("Q4_1", 32, 20, q4_1),
    8: Packing("Q8_0", 32, 34, q8_0),
}
