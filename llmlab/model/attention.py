"""Attention: softmax(Q Kᵀ / sqrt(K)) V, in many heads (Vaswani et al. 2017, section 3.2). Seam: `attend`.

    attend_formula   as the paper writes it: holds all T x S weights
    attend_tiled     the online softmax over tiles of keys: never holds more than T x tile (Dao et al. 2022)
    attend_fused     torch's own kernel, the default

All three are functions of (q, k, v, mask, causal). k and v may have fewer heads than q: then each serves a group of
neighbouring query heads (Ainslie et al. 2023). mask: True where a query may look; a query that may look nowhere gets 0.
causal: queries are the last T of the S positions, and none looks ahead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmlab.arguments import instance, whole
from llmlab.model.config import Config
from llmlab.model.embedding import Rotation, rotate
from llmlab.model.layers import Linear

Query = Float[Tensor, "B h T K"]
Keys = Float[Tensor, "B g S K"]
Mask = Bool[Tensor, "#B #h #T #S"]


def attend_fused(q: Query, k: Keys, v: Keys, mask: Mask | None = None, causal: bool = False) -> Query:
    """Compute softmax(q kᵀ / sqrt(K)) v by torch's kernel."""
    if mask is not None or q.shape[2] != k.shape[2]:
        mask, causal = allowed(q, k, mask, causal), False  # the kernel takes a mask or `is_causal`, not both
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=k.shape[1] != q.shape[1]
    )


def attend_formula(q: Query, k: Keys, v: Keys, mask: Mask | None = None, causal: bool = False) -> Query:
    """Compute softmax(q kᵀ / sqrt(K)) v as it is written."""
    k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5  # [B, h, T, S]
    mask = allowed(q, k, mask, causal)
    if mask is None:
        return scores.softmax(-1) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.masked_fill(~mask, 0.0) @ v  # a row with nothing allowed is 0/0 until here


def attend_tiled(q: Query, k: Keys, v: Keys, mask: Mask | None = None, causal: bool = False, tile: int = 128) -> Query:
    """Compute softmax(q kᵀ / sqrt(K)) v tile by tile, keeping a running maximum and two running sums.

    A new maximum m' rescales what was summed under m by exp(m - m') (Milakov and Gimelshein 2018). Where gradients are
    wanted autograd keeps every tile for them; torch's kernel computes the tiles again instead.
    """
    k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
    top = q.new_full((*q.shape[:3], 1), torch.finfo(q.dtype).min)
    total, summed = torch.zeros_like(top), torch.zeros_like(q)
    for start in range(0, k.shape[2], tile):
        part = slice(start, start + tile)
        scores = q @ k[:, :, part].mT / q.shape[-1] ** 0.5  # [B, h, T, tile]
        visible = allowed(q, k, mask, causal, part)
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        new_top = torch.maximum(top, scores.amax(-1, keepdim=True).detach())  # any value cancels: no gradient
        weights, shrink = (scores - new_top).exp(), (top - new_top).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        summed = summed * shrink + weights @ v[:, :, part]
        top = new_top
    return summed / total.masked_fill(total == 0, 1.0)


def allowed(
    q: Query, k: Keys, mask: Mask | None, causal: bool, part: slice = slice(None)
) -> Bool[Tensor, "#B #h #T #part"] | None:
    """Combine a mask with causality, for a part of the keys; None where every query may look at all of them."""
    T, S = q.shape[2], k.shape[2]
    if mask is not None:
        mask = mask.expand(*mask.shape[:-1], S)[..., part]
    if not causal or T == 1:  # a single query is the last position: all keys are its past
        return mask
    positions = torch.arange(S, device=q.device)
    past = (positions[part] <= positions[S - T :, None])[None, None]
    return past if mask is None else mask & past


def repeat_heads(x: Keys, heads: int) -> Float[Tensor, "B h S K"]:
    """Let each key or value head serve its group of neighbouring query heads."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def padding_mask(lengths: Int[Tensor, " B"], S: int) -> Bool[Tensor, "B 1 1 S"]:
    """Let nobody look at the padding that follows each sequence's own tokens."""
    instance("padding_mask", "lengths", lengths, Tensor, "torch.tensor(lengths)")
    whole("padding_mask", "S", S, least=1)
    return (torch.arange(S, device=lengths.device) < lengths[:, None])[:, None, None]


def document_mask(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Let each token look only within its own document, where several are packed into one sequence."""
    if not isinstance(documents, Tensor) or documents.dim() != 2:
        raise ValueError(f"document_mask wants documents as numbers [B, T]; got a {type(documents).__name__}")
    return (documents[:, :, None] == documents[:, None, :])[:, None]


class KVCache:
    """The keys and values of the tokens one attention has seen, kept so that the next token costs one row, not T."""

    def __init__(self, keys: Float[Tensor, "B g S K"], values: Float[Tensor, "B g S K"], length: int = 0):
        self.keys, self.values, self.length = keys, values, length

    def extend(self, k: Float[Tensor, "B g T K"], v: Float[Tensor, "B g T K"]) -> tuple[Keys, Keys]:
        """Write the new keys and values behind the others; return all so far."""
        start, stop = self.length, self.length + k.shape[2]
        if stop > self.keys.shape[2]:
            raise ValueError(f"the cache has room for {self.keys.shape[2]} tokens, got {stop}")
        self.keys[:, :, start:stop] = k
        self.values[:, :, start:stop] = v
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keep these sequences, in this order (beam search)."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class Attention(nn.Module):
    """Multi-head attention, grouped-query where n_kv_head < n_head. With a `memory`, keys and values are its."""

    def __init__(self, config: Config, causal: bool | None = None):
        super().__init__()
        d, k, dtype = config.d_model, config.head_dim, config.dtype
        self.query = Linear(d, config.n_head * k, config.qkv_bias, dtype)
        self.key = Linear(d, config.n_kv_head * k, config.qkv_bias, dtype)
        self.value = Linear(d, config.n_kv_head * k, config.qkv_bias, dtype)
        self.output = Linear(config.n_head * k, d, config.output_bias, dtype)
        self.head_dim = k
        self.causal = config.causal if causal is None else causal
        self.attend = attend_fused

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        cache: KVCache | None = None,
        memory: Float[Tensor, "B S D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        source = x if memory is None else memory
        q, k, v = self.heads(self.query(x)), self.heads(self.key(source)), self.heads(self.value(source))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.extend(k, v)
        return self.output(self.attend(q, k, v, mask, self.causal).transpose(1, 2).flatten(2))

    def heads(self, x: Float[Tensor, "B T hK"]) -> Float[Tensor, "B h T K"]:
        # -1: as many heads as the weights hold
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
