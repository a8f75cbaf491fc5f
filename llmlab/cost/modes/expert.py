"""What expert parallelism costs a rank: bytes by formula, from how many tokens leave it and how many arrive.

    per mixture and step:  2 (sent + received) D w     to the experts and back, in forward and again in backward
                         + 8 E                         how many are coming, as 64-bit integers, in forward

sent: the (token, choice) pairs this rank's router sends, dropped ones left out; received: those that chose an expert
here. Both count the pairs that stay on their rank, for `all_to_all` is handed those too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from llmlab.arguments import listing, wholes
from llmlab.cost.models import find_config
from llmlab.model import Config
from llmlab.model.moe import even_share


def exchange_bytes(config: str | Config, loads: Iterable[tuple[int, int]]) -> int:
    """Bytes a rank hands to `all_to_all` in one step without recomputation. `loads`: (sent, received) per mixture."""
    config = find_config(config)
    pairs = [_load(pair) for pair in listing("exchange_bytes", "loads", loads, "(sent, received)")]
    width = config.d_model * config.dtype.itemsize
    return sum(2 * (sent + received) * width + 8 * config.n_expert for sent, received in pairs)


def _load(pair: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"exchange_bytes wants loads of (sent, received); got {pair!r}")
    sent, received = pair
    wholes("exchange_bytes", 0, sent=sent, received=received)
    return sent, received


def even_load(config: str | Config, tokens: int, ep: int, rank: int) -> tuple[int, int]:
    """Give (sent, received) of one mixture if `tokens` tokens on each of `ep` ranks choose every expert alike."""
    config = find_config(config)
    wholes("even_load", 1, tokens=tokens, ep=ep)
    wholes("even_load", 0, rank=rank)
    pairs = tokens * config.n_expert_active
    sizes = even_share(pairs, config.n_expert)
    if config.capacity_factor is not None:
        capacity = math.ceil(config.capacity_factor * pairs / config.n_expert)
        sizes = [min(size, capacity) for size in sizes]
    share = config.n_expert // ep
    return sum(sizes), ep * sum(sizes[rank * share :][:share])


def balance_bytes(config: str | Config) -> int:
    """Bytes a rank hands to `all_reduce` in one step for `global_balance`: 2 E + 1 sums, and their gradient."""
    config = find_config(config)
    width = torch.promote_types(config.dtype, torch.float32).itemsize
    return config.n_layer * 2 * (2 * config.n_expert + 1) * width


def expert_param(config: str | Config, ep: int = 1) -> int:
    """Parameters of the routed experts that one of `ep` ranks holds."""
    config = find_config(config)
    wholes("expert_param", 1, ep=ep)
    biases = config.d_ff * (2 if config.mlp == "swiglu" else 1) + config.d_model
    weights = config.d_model * config.d_ff * (3 if config.mlp == "swiglu" else 2)
    return config.n_layer * config.n_expert // ep * (weights + biases * config.bias)


def dense_param(config: str | Config) -> int:
    """Parameters outside the routed experts: every rank holds them all, and their gradients are added up over ranks."""
    config = find_config(config)
    return config.n_param - expert_param(config)
