"""Mixture of experts: each token goes through the few MLPs its router prefers (Shazeer et al. 2017). Seam: `dispatch`.

    p = softmax(W_router x);   y = Σ over the k largest p_e of  w_e expert_e(x)

w is p itself for k = 1 (Fedus et al. 2022), else p divided by the sum of the k. How many tokens an expert gets depends
on the values; on the meta device, where there are none, every expert gets its even share. Two things keep the shares
even: a loss (`balance_loss`), and a bias that decides who is chosen, not what it weighs (`update_bias`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.model.config import Config
from llmlab.model.dropout import Place
from llmlab.model.layers import Linear
from llmlab.model.mlp import make_mlp


class MoE(nn.Module):
    """Router and experts, in the place of an MLP.

    After a forward `balance` holds the balancing loss, 1 at best, and `load` the share of choices each expert got; in
    a model's `loss` padding and other places without a target count in neither, and without any target the balancing
    loss is 0. Capacity limits training only.
    """

    bias: Tensor | None  # [E], or None for zero: see update_bias

    def __init__(self, config: Config):
        super().__init__()
        self.router = Linear(config.d_model, config.n_expert, False, config.dtype)
        self.experts = nn.ModuleList(make_mlp(config) for _ in range(config.n_expert))
        self.shared = nn.ModuleList(make_mlp(config) for _ in range(config.n_expert_shared))
        self.n_active, self.capacity_factor = config.n_expert_active, config.capacity_factor
        self.dispatch = dispatch
        self.average = same  # seam: over whose tokens the balance is judged
        self.balance: Tensor | None = None
        self.load: Tensor | None = None
        self.place = Place()  # of the model: which tokens count
        self.register_buffer("bias", None)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        tokens = x.flatten(0, 1)  # [N, D]
        weights, choice = self.route(tokens)
        capacity = self.capacity_factor if self.training else None  # or a token's text would depend on its neighbours
        y = self.dispatch(tokens, choice, weights, self.experts, capacity)
        for expert in self.shared:
            y = y + expert(tokens)
        return y.view_as(x)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "balance": None}  # the last step's graph can be neither copied nor pickled

    def route(self, tokens: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
        """Choose each token's experts and what their outputs are weighted by; note the balance."""
        logits = self.router(tokens)
        p = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))  # [N, E]
        if self.bias is None:
            weights, choice = p.topk(self.n_active, dim=-1)
        else:
            choice = (p + self.bias).topk(self.n_active, dim=-1).indices
            weights = p.gather(-1, choice)
        if self.n_active > 1:  # a single weight divided by itself would be 1, and teach the router nothing
            weights = weights / weights.sum(-1, keepdim=True)
        load, probability = self.judge(choice, p)
        balance = balance_loss(load, probability)
        if not self.place.recomputing:  # or it would keep the graph of what backward computes again
            self.balance, self.load = balance, load.detach()
        return weights.to(tokens.dtype), choice

    def judge(self, choice: Int[Tensor, "N k"], p: Float[Tensor, "N E"]) -> tuple[Tensor, Tensor]:
        """Give each expert's share of choices and its mean probability, over the tokens that count; 0 if none does."""
        n_expert, counted = p.shape[1], self.place.counted
        if counted is None:
            n, sums = p.new_full((1,), p.shape[0]), [tallied(choice, p), p.sum(0)]
        else:
            ones = counted.flatten().to(p.dtype)  # [N]
            n, sums = ones.sum()[None], [tallied(choice, p, ones), ones @ p]
        # sums and their number: ranks may have unequally many tokens that count
        load, probability, n = self.average(torch.cat([*sums, n])).split([n_expert, n_expert, 1])
        n = n.clamp(min=torch.finfo(n.dtype).tiny)
        return load / (n * choice.shape[1]), probability / n


def same(x: Tensor) -> Tensor:
    return x


def tallied(
    choice: Int[Tensor, "N k"], p: Float[Tensor, "N E"], ones: Float[Tensor, " N"] | None = None
) -> Float[Tensor, " E"]:
    """Count the choices that went to each expert, `ones` saying which tokens count."""
    each = p.new_ones(choice.shape) if ones is None else ones[:, None].expand(choice.shape)  # [N, k]
    return p.new_zeros(p.shape[1]).index_add(0, choice.flatten(), each.flatten())


def balance_loss(load: Float[Tensor, " E"], probability: Float[Tensor, " E"]) -> Float[Tensor, ""]:
    """Compute E Σ load_e probability_e, least when all are 1/E (Fedus et al. 2022, equation 4)."""
    return load.shape[0] * (load * probability).sum()


@torch.no_grad()
def update_bias(model: nn.Module, rate: float) -> None:
    """After a step, add rate sign(mean load - load) to every mixture's bias, from zero (Wang et al. 2024, algorithm 1).

    The load is the last forward's. On several ranks it must be the same on all, or they choose differently: see
    `parallel.expert.global_balance`. From the first call on the bias is part of the state_dict.
    """
    for moe in model.modules():
        if isinstance(moe, MoE) and moe.load is not None:
            bias = torch.zeros_like(moe.load) if moe.bias is None else moe.bias
            moe.bias = bias + rate * (moe.load.mean() - moe.load).sign()


def run_experts(experts: Sequence[nn.Module], tokens: Float[Tensor, "M D"], sizes: list[int]) -> Float[Tensor, "M D"]:
    """Put the first sizes[0] tokens through the first expert, the next through the second, and so on."""
    return torch.cat([expert(part) for expert, part in zip(experts, tokens.split(sizes), strict=True)])


def dispatch(
    tokens: Float[Tensor, "N D"],
    choice: Int[Tensor, "N k"],
    weights: Float[Tensor, "N k"],
    experts: Iterable[nn.Module],
    capacity_factor: float | None = None,
    run: Callable[[Sequence[nn.Module], Tensor, list[int]], Tensor] = run_experts,
) -> Float[Tensor, "N D"]:
    """Sort the tokens by expert, run each expert on its own, and add the weighted outputs back where they came from."""
    experts = list(experts)
    order, sizes = by_expert(choice, len(experts), capacity_factor)
    rows = order // choice.shape[1]  # [M]: the token of each (token, choice) pair, expert by expert
    outputs = run(experts, tokens[rows], sizes)
    return torch.zeros_like(tokens).index_add(0, rows, outputs * weights.flatten()[order][:, None])


def by_expert(
    choice: Int[Tensor, "N k"], n_expert: int, capacity_factor: float | None = None
) -> tuple[Int[Tensor, " M"], list[int]]:
    """Order the (token, choice) pairs by expert; say how many each expert takes.

    An expert takes at most capacity_factor times its even share; then first choices go before second ones, and earlier
    tokens before later ones (Lepikhin et al. 2021, algorithm 1). The pairs left over are dropped: M < N k.
    """
    n, k = choice.shape
    ranked = choice.T.flatten()  # all first choices, then all second ones
    order = ranked.argsort(stable=True)
    order = order % n * k + order // n  # numbered as in choice.flatten()
    sizes = tokens_per_expert(ranked, n_expert)
    if capacity_factor is None:
        return order, sizes
    capacity = math.ceil(capacity_factor * n * k / n_expert)
    kept = [part[:capacity] for part in order.split(sizes)]
    return torch.cat(kept), [min(size, capacity) for size in sizes]


def tokens_per_expert(choice: Int[Tensor, " Nk"], n_expert: int) -> list[int]:
    """Count what each expert was chosen for; on the meta device the even share. This waits for the values."""
    if choice.is_meta:
        return even_share(choice.numel(), n_expert)
    return torch.bincount(choice, minlength=n_expert).tolist()


def even_share(n: int, parts: int) -> list[int]:
    """Deal n out as evenly as it goes, the larger parts first."""
    share, rest = divmod(n, parts)
    return [share + (i < rest) for i in range(parts)]
