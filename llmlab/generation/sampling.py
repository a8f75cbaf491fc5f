"""From logits to one token: which may be drawn, how likely each, and the draw.

Random tokens come from softmax(logits / temperature), cut to the `top_k` likeliest (Fan et al. 2018) and to the fewest
whose probabilities reach `top_p` together (Holtzman et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Choose = Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]]  # (logits, step) -> a token for each row


def probabilities(
    logits: Float[Tensor, "*B V"], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "*B V"]:
    """Compute softmax(logits / temperature) of the `top_k` likeliest, then of the fewest that reach `top_p` together.

    A lower temperature sharpens, a higher one flattens. What is cut has probability 0, the rest adds up to 1; of equal
    logits at the border of `top_k` all stay. Raises ValueError for a choice that leaves nothing to draw from.
    """
    check_choice(temperature, top_k, top_p)
    logits = wide(logits)
    logits = logits - logits.amax(-1, keepdim=True)  # so that a tiny temperature can only overflow to -inf
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    p = (logits / temperature).softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = p.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # 0 for the likeliest, which therefore stays
        p = torch.zeros_like(p).scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))
        p = p / p.sum(-1, keepdim=True)
    return p


def check_choice(temperature: float, top_k: int | None, top_p: float | None, beams: int = 1) -> None:
    """Refuse choices that leave nothing to choose from, and beams of random tokens."""
    if not temperature >= 0:
        raise ValueError(f"temperature wants at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k wants at least 1 token, or None for all, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p wants a share above 0 and up to 1, or None for all, got {top_p}")
    if beams < 1:
        raise ValueError(f"beams wants at least 1, got {beams}")
    if beams > 1 and temperature > 0:
        raise ValueError(f"beams look for the likeliest text and want temperature 0, got {temperature}")


def wide(logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
    """Take 16-bit logits to fp32, and leave the others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def draw(p: Float[Tensor, "B V"], u: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Take the token at which the running sum of p passes u, uniform on [0, 1): token i with probability p_i."""
    sums = p.double().cumsum(-1)
    return torch.searchsorted(sums, u.double()[:, None] * sums[:, -1:], right=True)[:, 0]


def greedy(logits: Float[Tensor, "B V"], step: int) -> Int[Tensor, " B"]:
    return logits.argmax(-1)


def sampler(rows: int, steps: int, temperature: float, top_k: int | None, top_p: float | None, seed: int) -> Choose:
    """Choose tokens at random. Row i draws what a single prompt would with `seed + i`, whatever the other rows are."""
    u = torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed + row)) for row in range(rows)])

    def choose(logits: Float[Tensor, "B V"], step: int) -> Int[Tensor, " B"]:
        return draw(probabilities(logits, temperature, top_k, top_p), u[:, step].to(logits.device))

    return choose
