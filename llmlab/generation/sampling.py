"""From logits to one token: which may be drawn, how likely each, and the draw.

Random tokens come from softmax(logits / temperature), cut to the `top_k` likeliest (Fan et al. 2018) and to the fewest
whose probabilities reach `top_p` together (Holtzman et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmlab.arguments import instance, real, whole
from llmlab.evaluate.scores import finite

Choose = Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]]  # (logits, step) -> a token for each row


def probabilities(
    logits: Float[Tensor, "*B V"], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "*B V"]:
    """Compute softmax(logits / temperature) of the `top_k` likeliest, then of the fewest that reach `top_p` together.

    A lower temperature sharpens, a higher one flattens. What is cut has probability 0, the rest adds up to 1; of equal
    logits at the border of `top_k` all stay. Raises ValueError for a choice that leaves nothing to draw from, and for
    logits that are not finite.
    """
    check_choice("probabilities", temperature, top_k, top_p)
    logits = finite("probabilities", wide(instance("probabilities", "logits", logits, Tensor)))
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


def check_choice(call: str, temperature: float, top_k: int | None, top_p: float | None, beams: int = 1) -> None:
    """Refuse choices that leave nothing to choose from, and beams of random tokens."""
    real(call, "temperature", temperature, least=0)
    if top_k is not None:
        whole(call, "top_k, tokens to draw from (None: all),", top_k, least=1)
    if top_p is not None:
        real(call, "top_p, a share (None: all),", top_p, above=0, most=1)
    whole(call, "beams", beams, least=1)
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
