"""Weights left out: the smallest (Han et al. 2015), two of every four, or whole heads and neurons (Michel et al. 2019).

A mask leaves the matrix its size: zeros are multiplied like other numbers, unless the hardware knows their pattern.
`without` gives a smaller ordinary model instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmlab.arguments import instance, real, table, whole
from llmlab.model.attention import Attention
from llmlab.model.mlp import SwiGLU
from llmlab.model.transformer import Transformer
from llmlab.model.whole import check_in_one_piece, model_of


class Masks:
    """Which weights of a model stay, by name: `apply()` puts the others at 0, and must again after every update."""

    def __init__(self, model: nn.Module, keep: Mapping[str, Bool[Tensor, "O I"]]):
        self.keep = table("Masks", "keep", keep, "{name of a parameter: where it stays}")
        self.weights = {name: model.get_parameter(name) for name in self.keep}
        for name, weight in self.weights.items():
            if self.keep[name].shape != weight.shape or self.keep[name].dtype != torch.bool:
                raise ValueError(f"a mask wants True or False in the shape of {name}, {list(weight.shape)}")

    @torch.no_grad()
    def apply(self) -> Masks:
        for name, weight in self.weights.items():
            weight.mul_(self.keep[name].to(weight.device))
        return self

    def follow(self, optimizer: torch.optim.Optimizer) -> Masks:
        """Apply after each step of the optimizer, whose gradients and momentum would bring the weights back."""

        def put_back(*_: Any) -> None:
            self.apply()

        optimizer.register_step_post_hook(put_back)
        return self.apply()

    @property
    def share(self) -> float:
        """The share of the masked matrices' weights that is left out."""
        kept = sum(int(mask.sum()) for mask in self.keep.values())
        return 1 - kept / sum(mask.numel() for mask in self.keep.values())


def magnitude_masks(model: nn.Module, share: float) -> Masks:
    """Leave out this share of the weights of all linear maps in the blocks, the smallest of all of them together.

    Ties are broken by place, so that the share is met to within one weight.
    """
    real("magnitude_masks", "share", share, least=0, below=1)
    weights = matrices(model)
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    keep = torch.ones(len(sizes), dtype=torch.bool, device=sizes.device)
    keep[sizes.argsort(stable=True)[: round(share * len(sizes))]] = False
    parts = keep.split([weight.numel() for weight in weights.values()])
    return Masks(model, {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)})


def two_of_four(model: nn.Module) -> Masks:
    """Keep the two largest of every four neighbours in a row, as tensor cores can skip them (Mishra et al. 2021)."""
    return Masks(model, {name: two_largest(weight.detach()) for name, weight in matrices(model).items()})


def two_largest(weight: Float[Tensor, "O I"]) -> Bool[Tensor, "O I"]:
    if weight.shape[1] % 4:
        raise ValueError(f"2 of 4 wants rows of a multiple of 4 numbers, got {weight.shape[1]}")
    fours = weight.abs().unflatten(1, (-1, 4))
    best = fours.argsort(dim=-1, descending=True, stable=True)[..., :2]
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, best, True).flatten(1)


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Give the weights of all linear maps but the output layer's, by name."""
    check_in_one_piece("pruning", model_of("pruning", model))
    found = {f"{name}.weight": m.weight for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    found.pop("head.weight", None)
    if not found:
        raise ValueError("pruning wants a model with linear maps in its blocks, got none")
    return found


# --- whole heads and neurons ------------------------------------------------------------------------------------------


def without(model: Transformer, groups: int = 0, neurons: int = 0) -> Transformer:
    """Make a smaller model that lacks, in each block, the weakest key-value heads with their queries, and neurons.

    A head's strength is the norm of what its rows of value and columns of output multiply to; a neuron's the product of
    the norms of its row in and its column out. The new model is an ordinary one: fewer weights, fewer FLOPs.
    """
    instance("without", "model", model, Transformer)
    check_in_one_piece("without", model)
    config = model.config
    if config.n_expert:
        raise ValueError(f"without wants a model with dense MLPs, got one with {config.n_expert} experts")
    whole("without", "groups", groups, least=0, most=config.n_kv_head - 1)
    whole("without", "neurons", neurons, least=0, most=config.d_ff - 1)
    per_group, n_kv_head = config.n_head // config.n_kv_head, config.n_kv_head - groups
    sizes: dict[str, Any] = {"n_head": n_kv_head * per_group, "n_kv_head": n_kv_head, "d_ff": config.d_ff - neurons}
    if groups:
        sizes["head_dim"] = int(config.head_dim)  # given, or it would follow from the new n_head
    small = Transformer(replace(config, **sizes), model.seed).to(model.head.weight.device)
    state = dict(model.state_dict())
    for i, block in enumerate(model.blocks):
        for name, (dim, kept) in _kept(block, groups, neurons, per_group).items():
            key = f"blocks.{i}.{name}"
            if key in state:
                state[key] = state[key].index_select(dim, kept)
    small.load_state_dict(state)
    return small.train(model.training)


def _kept(block: nn.Module, groups: int, neurons: int, per_group: int) -> dict[str, tuple[int, Tensor]]:
    """Say which rows (dimension 0) or columns (1) of each weight of a block stay."""
    attention, mlp = cast(Attention, block.attention), cast(SwiGLU, block.mlp)
    strong = _strongest(group_strength(attention, per_group), groups)
    keys = _rows(strong, attention.head_dim)
    queries = _rows(strong, attention.head_dim * per_group)
    inner = _strongest(neuron_strength(mlp), neurons)
    kept = {"attention.output.weight": (1, queries), "mlp.down.weight": (1, inner)}
    for part in ("weight", "bias"):
        kept |= {f"attention.query.{part}": (0, queries)}
        kept |= {f"attention.{name}.{part}": (0, keys) for name in ("key", "value")}
        kept |= {f"mlp.{name}.{part}": (0, inner) for name in ("gate", "up")}
    return kept


@torch.no_grad()
def group_strength(attention: Attention, per_group: int) -> Float[Tensor, " G"]:
    """Compute, for each key-value head, the norm of W_output W_value over the query heads that it serves."""
    values = attention.value.weight.unflatten(0, (-1, attention.head_dim))  # [G, K, D]
    outputs = attention.output.weight.unflatten(1, (len(values), per_group, -1))  # [D, G, q, K]
    return torch.einsum("dgqk,gke->gqde", outputs, values).flatten(1).norm(dim=1)


@torch.no_grad()
def neuron_strength(mlp: nn.Module) -> Float[Tensor, " F"]:
    into, out = cast(nn.Linear, mlp.up).weight, cast(nn.Linear, mlp.down).weight
    return into.norm(dim=1) * out.norm(dim=0)


def _strongest(strength: Tensor, drop: int) -> Tensor:
    return strength.argsort(stable=True)[drop:].sort().values


def _rows(heads: Tensor, size: int) -> Tensor:
    return (heads[:, None] * size + torch.arange(size, device=heads.device)).flatten()
