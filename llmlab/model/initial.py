"""First weights, each drawn from (seed, its own name), so that a shard or a stage draws the whole model's very own.

Normal with standard deviation 0.02, and 0.02 / sqrt(2 L) where a sublayer writes into the residual stream (Radford et
al. 2019, section 2.3); norms begin as the identity, biases at 0. Of a low-rank adapter B begins at 0, A with standard
deviation 1 / sqrt(I).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmlab.arguments import instance
from llmlab.model.config import Config

STD = 0.02
INTO_RESIDUAL = ("output.weight", "down.weight")


def key_of(seed: int, *words: object) -> int:
    """A 63-bit number that (seed, words) decide, on every machine and in every Python alike."""
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def draw(name: str, shape: Sequence[int], config: Config, seed: int) -> Tensor:
    """Draw the whole parameter of that name, on the CPU; in fp32, so that an fp64 model holds the same numbers."""
    instance("draw", "config", config, Config)
    if name.endswith(("bias", "lora_b")):
        return torch.zeros(shape, dtype=config.dtype, device="cpu")
    if "norm" in name:
        return torch.ones(shape, dtype=config.dtype, device="cpu")
    std = STD / (2 * config.n_layer) ** 0.5 if name.endswith(INTO_RESIDUAL) else STD
    std = shape[-1] ** -0.5 if name.endswith("lora_a") else std
    generator = torch.Generator("cpu").manual_seed(key_of(seed, name))
    weight = torch.empty(shape, dtype=torch.float32, device="cpu").normal_(0.0, std, generator=generator)
    return weight.to(config.dtype)


@torch.no_grad()
def draw_weights(model: nn.Module, config: Config, seed: int, prefix: str = "") -> None:
    """Fill the model's parameters in place; those on the meta device, which hold no numbers, are passed over.

    `prefix`: what precedes the model's own names where it is a part of a larger one, as in "blocks.3.".
    """
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:
            parameter.copy_(draw(prefix + name, parameter.shape, config, seed))
