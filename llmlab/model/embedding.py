"""Tokens in: a row of a table for each (Vaswani et al. 2017, section 3.4), and positions: learned, sinusoidal, rotary.

All take positions as an argument, so that a slice of a sequence can say which slice it is. Nothing here is kept
between calls but learned tables: sines are computed where they are needed, in the precision they are needed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from llmlab.arguments import real, whole
from llmlab.model.config import Config
from llmlab.model.dropout import Dropout

Rotation = tuple[Tensor, Tensor]  # cosines and sines, each [T, K/2] or [B, 1, T, K/2]


class Table(nn.Module):
    """Give row i of a learned table for each number i: the product with a one-hot vector, without the zeros."""

    def __init__(self, rows: int, d_model: int, dtype: torch.dtype, what: str):
        super().__init__()
        self.what = what
        self.weight = nn.Parameter(torch.empty(rows, d_model, dtype=dtype))

    def forward(self, index: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        try:
            return F.embedding(index, self.weight)
        except IndexError:  # asked only now: looking at the values first would cost every step
            low, high, top = int(index.min()), int(index.max()), self.weight.shape[0] - 1
            raise ValueError(f"{self.what} wants numbers from 0 to {top}, got {low} to {high}") from None


def as_index(what: str, numbers: Tensor) -> Int[Tensor, "*B"]:
    """Return integers in a dtype that torch can look up by: it cannot by those of 8 and 16 bits, nor unsigned ones."""
    if numbers.dtype in (torch.int64, torch.int32):
        return numbers
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"{what} wants integers, got {numbers.dtype}")
    return numbers.long()


class Embedding(nn.Module):
    """Token embedding plus, where the config says so, learned or sinusoidal positions. [B, T] -> [B, T, D]"""

    def __init__(self, config: Config):
        super().__init__()
        self.token = Table(config.vocab_size, config.d_model, config.dtype, "token")
        learned = config.position == "learned"
        self.position = Table(config.max_seq, config.d_model, config.dtype, "position") if learned else None
        self.sinusoidal = config.position == "sinusoidal"
        self.dropout = Dropout(config.dropout)

    def forward(
        self, tokens: Integer[Tensor, "B T"], positions: Int[Tensor, "*B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        x = self.token(as_index("token", tokens))
        if self.sinusoidal:  # sines reach 1, so tokens are scaled up to match: Vaswani et al. 2017, section 3.4
            x = x * x.shape[-1] ** 0.5 + sinusoids(count(x, positions), x.shape[-1]).to(x.dtype)
        elif self.position is not None:
            x = x + self.position(count(x, positions))
        return self.dropout(x)


def count(x: Float[Tensor, "B t D"], positions: Int[Tensor, "*B T"] | None) -> Int[Tensor, "*B T"]:
    """Give the positions, counted from 0 where none are given."""
    return torch.arange(x.shape[1], device=x.device) if positions is None else positions


def sinusoids(positions: Int[Tensor, "*B T"], d_model: int) -> Float[Tensor, "*B T D"]:
    """PE(t, 2i) = sin(t / 10000^(2i/D)), PE(t, 2i + 1) = cos of the same; in float64."""
    _even("sinusoids", "d_model", d_model)
    angles = angles_of(positions, d_model, 10000.0)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def _even(call: str, name: str, size: int) -> None:
    if whole(call, name, size, least=2) % 2:
        raise ValueError(f"{call} turns pairs and wants an even {name}, got {size}")


def angles_of(positions: Int[Tensor, "*B T"], dim: int, base: float) -> Float[Tensor, "*B T half"]:
    """Give t / base^(2i/dim) for i = 0 .. dim/2 - 1, in float64: at t = 10^5 a 32-bit angle may be off by 0.004."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions[..., None] * base**-exponents


def rotary(
    positions: Int[Tensor, "*B T"], head_dim: int, base: float, dtype: torch.dtype, factors: Sequence[float] = ()
) -> Rotation:
    """Cosines and sines that `rotate` turns queries and keys by (Su et al. 2021); 16-bit models get them in fp32.

    factors: what each frequency is divided by, so that a model trained on short sequences can be taught long ones.
    """
    _even("rotary", "head_dim", head_dim)
    real("rotary", "base", base, above=0)
    angles = angles_of(positions, head_dim, base)
    if factors:
        angles = angles / torch.tensor(factors, dtype=angles.dtype, device=angles.device)
    angles = angles if angles.dim() == 2 else angles[:, None]  # one row of angles per sequence: the heads share it
    dtype = torch.promote_types(dtype, torch.float32)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def llama3_factors(
    head_dim: int, base: float, factor: float, low: float, high: float, trained: float
) -> tuple[float, ...]:
    """Divide slow frequencies by `factor`, leave fast ones alone, and go from one to the other in between.

    A frequency f turns n = trained f / 2π times over the `trained` positions of before: it is slow where n < low, fast
    where n > high. In between f becomes (1 - s) f / factor + s f, s going from 0 to 1 as n does from low to high.
    (Llama 3.1, Grattafiori et al. 2024; the form is that of the code published with it.)
    """
    frequencies = (base ** (-2 * i / head_dim) for i in range(head_dim // 2))
    turns = [trained * f / (2 * math.pi) for f in frequencies]
    shares = [min(max((n - low) / (high - low), 0.0), 1.0) for n in turns]
    return tuple(1 / ((1 - s) / factor + s) for s in shares)


def rotate(x: Float[Tensor, "B h T K"], rotation: Rotation) -> Float[Tensor, "B h T K"]:
    """Turn the pair (x_i, x_{i + K/2}) by the angle of its position: the pairing of GPT-NeoX and Llama weights."""
    cos, sin = rotation
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)
