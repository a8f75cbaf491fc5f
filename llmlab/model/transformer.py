"""The Transformer: blocks of attention and MLP on one residual stream (Vaswani et al. 2017). Seam: `blocks`.

x = x + attention(norm(x));  x = x + mlp(norm(x))      norm_first (Xiong et al. 2020), as in GPT-2
x = norm(x + attention(x));  x = norm(x + mlp(x))      otherwise, as in the paper
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.arguments import instance, whole
from llmlab.model.attention import Attention, KVCache, Mask
from llmlab.model.config import Config
from llmlab.model.dropout import Dropout
from llmlab.model.embedding import Rotation
from llmlab.model.language_model import LanguageModel, Positions, Tokens, shape_of
from llmlab.model.layers import make_norm
from llmlab.model.loss import IGNORE
from llmlab.model.mlp import make_mlp
from llmlab.model.moe import MoE


class Block(nn.Module):
    """Attention, then MLP (or experts), each with its norm and added to the residual stream."""

    def __init__(self, config: Config):
        super().__init__()
        self.norm_first = config.norm_first
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.attention_dropout = Dropout(config.dropout)
        self.mlp_norm = make_norm(config)
        self.mlp = MoE(config) if config.n_expert else make_mlp(config)
        self.mlp_dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B t D"],
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B t D"]:
        if self.norm_first:
            x = x + self.attention_dropout(self.attention(self.attention_norm(x), rotation, mask, cache))
            return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.attention_dropout(self.attention(x, rotation, mask, cache)))
        return self.mlp_norm(x + self.mlp_dropout(self.mlp(x)))


class Transformer(LanguageModel):
    """Tokens to logits, [B, T] -> [B, T, V]: a decoder, or with `causal=False` an encoder."""

    def __init__(self, config: Config, seed: int = 0):
        super().__init__(config, seed)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = make_norm(config) if config.norm_first else nn.Identity()
        self.finish()

    def forward(
        self,
        tokens: Tokens,
        positions: Positions | None = None,
        mask: Mask | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Compute the logits. `positions` (default 0 .. T-1): where tokens stand. `mask`: True where one may look.

        With `caches` (see `make_caches`) the tokens follow those already in them.
        """
        return self.head(self.features(tokens, positions, mask, caches))

    def features(
        self,
        tokens: Tokens,
        positions: Positions | None = None,
        mask: Mask | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "B t D"]:
        """Compute what the output layer reads."""
        before = caches[0].length if caches else 0
        self.check_length(tokens, before)
        self.check_places(tokens, positions, mask, before)
        if positions is None:
            positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        return self.norm(self.through(self.blocks, self.embedding(tokens, positions), positions, mask, caches))

    def check_places(self, tokens: Tokens, positions: Positions | None, mask: Mask | None, before: int) -> None:
        """Refuse positions and a mask of other shapes than the tokens'."""
        length = tokens.shape[1]
        for name, value in (("positions", positions), ("mask", mask)):
            if value is not None:
                instance("the model", name, value, Tensor)
        if positions is not None and (positions.shape[-1:] != (length,) or positions.is_floating_point()):
            raise ValueError(f"positions want whole numbers [{length}] or [B, {length}], got {shape_of(positions)}")
        if mask is None or self.whole is not None:  # a split sequence looks over the whole one's length
            return
        if mask.dim() != 4 or mask.shape[2] not in (1, length) or mask.shape[3] not in (1, length + before):
            raise ValueError(f"a mask wants [B or 1, heads or 1, {length}, {length + before}], got {shape_of(mask)}")

    def last_logits(
        self,
        tokens: Tokens,
        positions: Positions | None = None,
        mask: Mask | None = None,
        caches: Sequence[KVCache] | None = None,
        rows: Int[Tensor, " C"] | None = None,
    ) -> Float[Tensor, "C V"]:
        """Compute the logits of the token after the last, of all sequences or of `rows`: the others' are left out."""
        x = self.features(tokens, positions, mask, caches)[:, -1]
        return self.head(x if rows is None else x[rows])

    def through(
        self,
        blocks: Iterable[nn.Module],
        x: Float[Tensor, "B t D"],
        positions: Positions,
        mask: Mask | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "B t D"]:
        """Take the residual stream through these blocks, one after another: all of the model's, or some of them."""
        rotation = self.rotation(x, positions)
        for i, block in enumerate(blocks):
            x = block(x, rotation, mask, caches[i] if caches else None)
        return x

    def loss(
        self,
        tokens: Tokens,
        targets: Tokens,
        positions: Positions | None = None,
        mask: Mask | None = None,
        reduction: str = "mean",
    ) -> Float[Tensor, ""]:
        """Compute the cross-entropy in nats, averaged (or summed) over the target tokens (-100: not one)."""
        with self.place.counting(targets != IGNORE):
            logits = self(tokens, positions, mask)
        return self.loss_of(logits, targets, reduction)

    def make_caches(self, batch: int, length: int | None = None) -> list[KVCache]:
        """Make an empty cache per block, for `batch` sequences of up to `length` (default max_seq) tokens."""
        whole("make_caches", "batch", batch, least=1)
        if length is not None:
            whole("make_caches", "length", length, least=1)
        weight = self.head.weight
        shape = (batch, self.config.n_kv_head, length or self.config.max_seq, self.config.head_dim)
        return [KVCache(weight.new_empty(shape), weight.new_empty(shape)) for _ in self.blocks]
