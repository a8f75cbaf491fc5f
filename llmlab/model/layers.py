"""The small layers everything else is made of: a linear map and the norms, with weights left to be drawn by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmlab.model.config import Config


class Linear(nn.Linear):
    """y = x Wᵀ + b. Its weights are empty until `draw_weights` fills them. Seam: `multiply`."""

    def __init__(self, d_in: int, d_out: int, bias: bool, dtype: torch.dtype):
        super().__init__(d_in, d_out, bias=bias, dtype=dtype)
        # a zero-bubble pipeline computes its two gradients apart; an adapter adds to it
        self.multiply: Callable[..., Tensor] = F.linear

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        return self.multiply(x, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """Leave the weights as they are: torch would draw here, from its global generator."""


class LayerNorm(nn.Module):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension (Ba et al. 2016)."""

    def __init__(self, d: int, eps: float, bias: bool, dtype: torch.dtype):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(d, dtype=dtype)) if bias else None

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x²) + eps) * weight, over the last dimension (Zhang and Sennrich 2019)."""

    def __init__(self, d: int, eps: float, dtype: torch.dtype):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d, dtype=dtype))

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def make_norm(config: Config) -> LayerNorm | RMSNorm:
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps, config.dtype)
    return LayerNorm(config.d_model, config.norm_eps, config.bias, config.dtype)
