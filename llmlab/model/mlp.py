"""The feed-forward sublayer, the same for every token: W_down f(W_up x) (Vaswani et al. 2017, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmlab.model.config import Config
from llmlab.model.layers import Linear


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by tanh, as GPT-2's weights were trained with."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "gelu_tanh": gelu_tanh, "relu": F.relu}


class MLP(nn.Module):
    """W_down f(W_up x), f = GELU (Hendrycks and Gimpel 2016) unless the config says otherwise."""

    def __init__(self, config: Config):
        super().__init__()
        self.up = Linear(config.d_model, config.d_ff, config.bias, config.dtype)
        self.down = Linear(config.d_ff, config.d_model, config.bias, config.dtype)
        self.activation = ACTIVATIONS[config.mlp]

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.down(self.activation(self.up(x)))


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_up x) (Shazeer 2020)."""

    def __init__(self, config: Config):
        super().__init__()
        self.gate = Linear(config.d_model, config.d_ff, config.bias, config.dtype)
        self.up = Linear(config.d_model, config.d_ff, config.bias, config.dtype)
        self.down = Linear(config.d_ff, config.d_model, config.bias, config.dtype)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def make_mlp(config: Config) -> MLP | SwiGLU:
    return SwiGLU(config) if config.mlp == "swiglu" else MLP(config)
