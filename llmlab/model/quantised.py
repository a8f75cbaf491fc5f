"""Weights in few bits: blocks of numbers that share a scale, as GGUF files store them (the structs of ggml-common.h).

One function per format. Its picture gives the fields of a block in order, with their sizes in bytes; d and m are fp16
numbers of one block, s and t small integers of a part of it, and q the integers themselves, cut into `low` bits and
`high` ones that are stored apart. All arithmetic is fp32, in the order of the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Raw = NDArray[np.uint8]  # [N, bytes of a block]
Numbers = NDArray[np.float32]  # [N, numbers of a block]

# --- numbers on their own ---------------------------------------------------------------------------------------------


def f64(raw: Raw) -> Numbers:
    return raw.view("<f8").astype(np.float32)


def f32(raw: Raw) -> Numbers:
    return raw.view("<f4").astype(np.float32)


def f16(raw: Raw) -> Numbers:
    return raw.view("<f2").astype(np.float32)


def bf16(raw: Raw) -> Numbers:
    """The upper half of an fp32."""
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


# --- blocks of 32 -----------------------------------------------------------------------------------------------------


def q4_0(raw: Raw) -> Numbers:
    """w = d (q - 8)          | d 2 | low 16 |"""
    d, low = fields(raw, 2, 16)
    return f16(d) * (nibbles(low) - 8)


def q4_1(raw: Raw) -> Numbers:
    """w = d q + m            | d 2 | m 2 | low 16 |"""
    d, m, low = fields(raw, 2, 2, 16)
    return f16(d) * nibbles(low) + f16(m)


def q5_0(raw: Raw) -> Numbers:
    """w = d (q - 16)         | d 2 | high 4 | low 16 |          bit i of `high` is the fifth bit of q_i"""
    d, high, low = fields(raw, 2, 4, 16)
    return f16(d) * (nibbles(low) + 16 * bits(high) - 16)


def q5_1(raw: Raw) -> Numbers:
    """w = d q + m            | d 2 | m 2 | high 4 | low 16 |    bit i of `high` is the fifth bit of q_i"""
    d, m, high, low = fields(raw, 2, 2, 4, 16)
    return f16(d) * (nibbles(low) + 16 * bits(high)) + f16(m)


def q8_0(raw: Raw) -> Numbers:
    """w = d q                | d 2 | q 32 |                     q is signed"""
    d, q = fields(raw, 2, 32)
    return f16(d) * q.view(np.int8)


def iq4_nl(raw: Raw) -> Numbers:
    """w = d UNEVEN[q]        | d 2 | low 16 |"""
    d, low = fields(raw, 2, 16)
    return f16(d) * UNEVEN[nibbles(low)]


# --- blocks of 256: a scale for each part of 16 or 32, which has few bits itself and a scale for all ------------------


def q2_k(raw: Raw) -> Numbers:
    """w = (d s) q - (m t)    | t, s 16 | q 64 | d 2 | m 2 |     16 parts of 16; a byte holds t (high), s (low)"""
    scales, q, d, m = fields(raw, 16, 64, 2, 2)
    scale, offset = f16(d) * (scales & 15), f16(m) * (scales >> 4)
    return by_part(scale, planes(q, 2, 32), offset)


def q3_k(raw: Raw) -> Numbers:
    """w = (d (s - 32)) (q - 4)   | high 32 | low 64 | s 12 | d 2 |      16 parts of 16; q has 3 bits, s has 6"""
    high, low, packed, d = fields(raw, 32, 64, 12, 2)
    q = planes(low, 2, 32) + 4 * planes(high, 1, 32)
    s = planes(packed[:, :8], 4, 8) + 16 * planes(packed[:, 8:], 2, 4)
    return by_part(f16(d) * (s - 32), q - 4)


def q4_k(raw: Raw) -> Numbers:
    """w = (d s) q - (m t)    | d 2 | m 2 | s, t 12 | low 128 |           8 parts of 32"""
    d, m, packed, low = fields(raw, 2, 2, 12, 128)
    s, t = six_bits(packed)
    return by_part(f16(d) * s, planes(low, 4, 32), f16(m) * t)


def q5_k(raw: Raw) -> Numbers:
    """w = (d s) q - (m t)    | d 2 | m 2 | s, t 12 | high 32 | low 128 |    8 parts of 32"""
    d, m, packed, high, low = fields(raw, 2, 2, 12, 32, 128)
    s, t = six_bits(packed)
    return by_part(f16(d) * s, planes(low, 4, 32) + 16 * planes(high, 1, 32), f16(m) * t)


def q6_k(raw: Raw) -> Numbers:
    """w = (d s) (q - 32)     | low 128 | high 64 | s 16 | d 2 |          16 parts of 16; s is signed"""
    low, high, s, d = fields(raw, 128, 64, 16, 2)
    return by_part(f16(d) * s.view(np.int8), planes(low, 4, 64) + 16 * planes(high, 2, 32) - 32)


def iq4_xs(raw: Raw) -> Numbers:
    """w = (d (s - 32)) UNEVEN[q]   | d 2 | high of s 2 | low of s 4 | q 128 |    8 parts of 32; s has 6 bits"""
    d, high, low, q = fields(raw, 2, 2, 4, 128)
    s = in_order(low, 4) + 16 * in_order(high, 2)
    return by_part(f16(d) * (s - 32), UNEVEN[planes(q, 4, 16)])


# --- taking bytes apart -----------------------------------------------------------------------------------------------

# sixteen levels, close together near 0, where most weights are
UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def fields(raw: Raw, *sizes: int) -> list[Raw]:
    """Cut each block into fields of so many bytes."""
    parts = np.split(raw, np.cumsum(sizes)[:-1], axis=1)
    return [np.ascontiguousarray(part) for part in parts]


def planes(raw: Raw, width: int, run: int) -> NDArray[np.int8]:
    """Give the numbers of `width` bits of runs of bytes: first the lowest bits of all bytes of a run, then the next.

    width=4, run=2:   | ba | dc | fe | hg |  ->  a c b d   e g f h
    """
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    lowest = np.uint8((1 << width) - 1)
    n, size = raw.shape
    found = raw.reshape(n, size // run, 1, run) >> shifts & lowest  # [N, runs, 8 / width, run]
    return found.reshape(n, size * 8 // width).astype(np.int8)


def nibbles(raw: Raw) -> NDArray[np.int8]:
    """Give the lower halves of all bytes, then the upper ones."""
    return planes(raw, 4, raw.shape[1])


def in_order(raw: Raw, width: int) -> NDArray[np.int8]:
    """Give the numbers of `width` bits in the order in which they lie, from the lowest bit of the first byte on."""
    return planes(raw, width, 1)


def bits(raw: Raw) -> NDArray[np.int8]:
    return in_order(raw, 1)


def six_bits(packed: Raw) -> tuple[Raw, Raw]:
    """Take 8 scales s and 8 offsets t of 6 bits each out of 12 bytes.

    byte j       (j < 4)    low 6 bits: s_j         high 2: high bits of s_{j+4}
    byte j + 4              low 6 bits: t_j         high 2: high bits of t_{j+4}
    byte j + 8              low 4 bits: of s_{j+4}  high 4: low bits of t_{j+4}
    """
    a, b, c = fields(packed, 4, 4, 4)
    s = np.concatenate((a & 63, c & 15 | a >> 6 << 4), axis=1)
    t = np.concatenate((b & 63, c >> 4 | b >> 6 << 4), axis=1)
    return s, t


def by_part(scale: Numbers, q: NDArray[Any], offset: Numbers | None = None) -> Numbers:
    """Compute scale q - offset, where neighbouring numbers of a block share scale and offset."""
    n, parts = scale.shape
    w = scale[:, :, None] * q.reshape(n, parts, q.shape[1] // parts)  # [N, parts, numbers of a part]
    return (w if offset is None else w - offset[:, :, None]).reshape(q.shape)


# --- what there is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packing:
    """How a type packs numbers: how many go into a block, of how many bytes, and how they come out, in fp32."""

    name: str
    numbers: int
    nbytes: int
    unpack: Callable[[Raw], Numbers]


PACKINGS = {  # by ggml's number for the type
    0: Packing("F32", 1, 4, f32),
    1: Packing("F16", 1, 2, f16),
    2: Packing("Q4_0", 32, 18, q4_0),
    3: Packing("Q4_1", 32, 20, q4_1),
    6: Packing("Q5_0", 32, 22, q5_0),
    7: Packing("Q5_1", 32, 24, q5_1),
    8: Packing("Q8_0", 32, 34, q8_0),
    10: Packing("Q2_K", 256, 84, q2_k),
    11: Packing("Q3_K", 256, 110, q3_k),
    12: Packing("Q4_K", 256, 144, q4_k),
    13: Packing("Q5_K", 256, 176, q5_k),
    14: Packing("Q6_K", 256, 210, q6_k),
    20: Packing("IQ4_NL", 32, 18, iq4_nl),
    23: Packing("IQ4_XS", 256, 136, iq4_xs),
    28: Packing("F64", 1, 8, f64),
    30: Packing("BF16", 1, 2, bf16),
}
UNREAD = {  # the names of the others, to refuse them by
    **{4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"},
    **{21: "IQ3_S", 22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0"},
    **{39: "MXFP4", 40: "NVFP4", 41: "Q1_0"},
}
