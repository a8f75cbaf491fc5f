"""Where each of our parameters comes from in a file of weights, and how a model is filled from there.

Names, shapes and leftovers are all checked first, on a model of shapes alone: only then is memory taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from llmlab.model.stored import Stored

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """A stored tensor, the shape it must have where ours is `shape`, and how ours is taken out of it."""

    name: str
    stored_shape: Callable[[Shape], Shape]
    take: Callable[[Tensor], Tensor]


Origins = dict[str, Origin]


def same(name: str) -> Origin:
    """Take the tensor as it is."""
    return Origin(name, lambda shape: shape, lambda stored: stored)


def transposed(name: str) -> Origin:
    """Take the transpose: GPT-2 computes x W where we compute x Wᵀ."""
    return Origin(name, lambda shape: shape[::-1], lambda stored: stored.t())


def third(name: str, i: int) -> Origin:
    """Take a third of what GPT-2 holds side by side: [W_q | W_k | W_v], or the biases [b_q | b_k | b_v]."""
    return Origin(name, lambda shape: (*shape[1:], 3 * shape[0]), lambda stored: stored.chunk(3, dim=-1)[i].t())


def unpaired(name: str, heads: int) -> Origin:
    """Take GGUF's rows in our order: there neighbours (2i, 2i + 1) of a head are turned, here (i, i + K/2)."""

    def take(stored: Tensor) -> Tensor:
        return stored.view(heads, -1, 2, *stored.shape[1:]).transpose(1, 2).reshape(stored.shape)

    return Origin(name, lambda shape: shape, take)


def weight_and_bias(layers: Mapping[str, Origin], bias: bool = True) -> Origins:
    """Name the weight of each layer and, where there is one, its bias."""
    parts = ("weight", "bias") if bias else ("weight",)
    return {
        f"{ours}.{part}": replace(origin, name=f"{origin.name}.{part}")
        for ours, origin in layers.items()
        for part in parts
    }


def per_block(n_layer: int, stem: str, origins: Origins) -> Origins:
    """Repeat the origins of one block for all: `stem`, with the block's number, precedes the stored names."""
    return {
        f"blocks.{i}.{ours}": replace(origin, name=stem.format(i) + origin.name)
        for i in range(n_layer)
        for ours, origin in origins.items()
    }


def fill(model: nn.Module, origins: Origins, stored: Mapping[str, Stored]) -> nn.Module:
    """Give a model made on the meta device the stored weights, on the CPU, in the model's own dtype.

    Raises: ValueError if a tensor is missing, has another shape, or is left over; then nothing has been read.
    """
    parameters = dict(model.named_parameters())
    assert parameters.keys() == origins.keys(), parameters.keys() ^ origins.keys()
    check(parameters, origins, stored)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for ours, parameter in model.named_parameters():
            parameter.copy_(origins[ours].take(stored[origins[ours].name].read()))
    return model


def check(parameters: Mapping[str, Tensor], origins: Origins, stored: Mapping[str, Stored]) -> None:
    """Hold what is stored against what the model needs."""
    missing = sorted({origin.name for origin in origins.values()} - stored.keys())
    if missing:
        raise ValueError(
            f"the weights of this model need {len(origins)} names, {len(missing)} missing: {missing[:5]}; "
            f"there are {len(stored)}: {sorted(stored)[:5]}"
        )
    left = sorted(stored.keys() - {origin.name for origin in origins.values()})
    if left:
        raise ValueError(f"each tensor must have a place in the model, got {len(left)} without one: {left[:5]}")
    for ours, origin in origins.items():
        wanted, got = origin.stored_shape(tuple(parameters[ours].shape)), stored[origin.name].shape
        if wanted != got:
            raise ValueError(f"{origin.name!r} must have shape {wanted} as the config says, got {got}")
