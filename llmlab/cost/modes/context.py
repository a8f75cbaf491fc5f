"""Context parallelism in closed form: the bytes a rank hands over, the pairs it computes, the memory it needs.

B sequences of T tokens over c ranks, t = T / c tokens each; L layers, h query heads, g key heads, K per head; w bytes a
number, a = max(w, 4) bytes a sum. kv = 2 B t g K w is what goes round the ring.

    ring      forward (c - 1) kv, backward (c - 1) kv + c kv a / w      the gradients of kv go all the way home
    ulysses   forward B t K w (2 h + 2 max(g, c)), backward the same    a c-th of it stays on the rank itself
"""

from __future__ import annotations

from math import lcm

import torch

from llmlab.arguments import choice, wholes
from llmlab.cost.models import find_config
from llmlab.model.config import Config


def ring_bytes(config: str | Config, batch: int, seq: int, cp: int, tp: int = 1, forwards: int = 1) -> int:
    """Bytes a rank hands over to ring attention in one step, whatever the order of the tokens.

    batch: sequences this replica computes in the step.  forwards: 2 where attention is recomputed.
    """
    config = find_config(config)
    wholes("ring_bytes", 1, batch=batch, seq=seq, cp=cp, tp=tp, forwards=forwards)
    if cp == 1:
        return 0
    numbers = 2 * batch * (seq // cp) * _key_heads(config, tp) * config.head_dim
    kv, grad = numbers * config.dtype.itemsize, numbers * _accumulator(config)
    return config.n_layer * ((forwards + 1) * (cp - 1) * kv + cp * grad)


def ulysses_bytes(
    config: str | Config, batch: int, seq: int, cp: int, tp: int = 1, forwards: int = 1, masks: int = 0
) -> int:
    """Bytes a rank hands over to Ulysses in one step, what it keeps of an all_to_all included.

    masks: how many [T, T] masks come with each microbatch, times the microbatches; their rows are gathered in every
    layer, a byte an entry.
    """
    config = find_config(config)
    wholes("ulysses_bytes", 1, batch=batch, seq=seq, cp=cp, tp=tp, forwards=forwards)
    wholes("ulysses_bytes", 0, masks=masks)
    if cp == 1:
        return 0
    heads = 2 * config.n_head // tp + 2 * lcm(_key_heads(config, tp), cp)
    numbers = batch * (seq // cp) * heads * config.head_dim
    rows = masks * (seq // cp) * seq
    return config.n_layer * ((forwards + 1) * numbers * config.dtype.itemsize + forwards * rows)


def causal_pairs(order: str, seq: int, cp: int) -> list[int]:
    """How many pairs (query, key) each rank computes for one head of one sequence; they add up to T (T + 1) / 2."""
    wholes("causal_pairs", 1, seq=seq, cp=cp)
    choice("causal_pairs", "order", order, ("contiguous", "zigzag", "striped"))
    t = seq // cp
    own = t * (t + 1) // 2
    if order == "contiguous":
        return [own + rank * t * t for rank in range(cp)]
    if order == "zigzag":
        return [own + (cp - 1) * t * t // 2 for _ in range(cp)]
    return [(rank + 1) * own + (cp - 1 - rank) * t * (t - 1) // 2 for rank in range(cp)]


def activation_bytes(config: str | Config, batch: int, seq: int, cp: int, how: str = "ring") -> int:
    """Bytes of activations that one rank holds at its peak, the end of forward (LayerNorm, a plain MLP, no dropout).

    Per token and layer: the inputs of two norms and of the two products after them, q, k, v and attention's output, the
    MLP's hidden values before and after the nonlinearity; a logsumexp a head, each norm's mean and deviation. Ulysses
    keeps attention's output twice, as the heads and as the tokens have it; so does torch for rotated queries. Then the
    last norm, and three of the logits.
    """
    config = find_config(config)
    wholes("activation_bytes", 1, batch=batch, seq=seq, cp=cp)
    choice("activation_bytes", "how", how, ("ring", "ulysses"))
    c, w, a = config, config.dtype.itemsize, _accumulator(config)
    key_heads = c.n_kv_head if how != "ulysses" or cp == 1 else lcm(c.n_kv_head, cp)
    outputs = 2 if how == "ulysses" and cp > 1 or c.position == "rotary" else 1
    heads = ((1 + outputs) * c.n_head + 2 * key_heads) * c.head_dim
    layer = (4 * c.d_model + heads + 2 * c.d_ff) * w + (c.n_head + 4) * a
    return batch * (seq // cp) * (c.n_layer * layer + (2 * c.d_model + 3 * c.vocab_size) * w)


def received_bytes(config: str | Config, batch: int, seq: int, cp: int, tp: int = 1) -> int:
    """Bytes a rank of a ring has received and still needs, at most: kv in use and on its way, and kv's gradients."""
    config = find_config(config)
    wholes("received_bytes", 1, batch=batch, seq=seq, cp=cp, tp=tp)
    if cp == 1:
        return 0
    numbers = 2 * batch * (seq // cp) * _key_heads(config, tp) * config.head_dim
    return numbers * (min(cp - 1, 2) * config.dtype.itemsize + 2 * _accumulator(config))


def _key_heads(config: Config, tp: int) -> int:
    return max(config.n_kv_head // tp, 1)


def _accumulator(config: Config) -> int:
    return torch.promote_types(config.dtype, torch.float32).itemsize
