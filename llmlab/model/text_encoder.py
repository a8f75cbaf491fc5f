"""BERT's encoder (Devlin et al. 2019): tokens to vectors, from both sides; and one vector for a whole text.

It is the Transformer's blocks with `causal=False` and the norm after the sum, under an embedding that adds which of two
texts a token belongs to, and is itself normed. There is no output layer. Seam: `blocks`.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.arguments import instance, whole
from llmlab.model.attention import padding_mask
from llmlab.model.config import Config
from llmlab.model.dropout import Dropout, Place, settle
from llmlab.model.embedding import Embedding, Table
from llmlab.model.initial import draw_weights
from llmlab.model.layers import make_norm
from llmlab.model.transformer import Block


class TextEncoder(nn.Module):
    """Tokens to vectors, [B, T] -> [B, T, D]. n_segment: how many texts a sequence may be made of."""

    def __init__(self, config: Config, n_segment: int = 2, seed: int = 0):
        super().__init__()
        instance("TextEncoder", "config", config, Config)
        whole("TextEncoder", "n_segment", n_segment, least=1)
        whole("TextEncoder", "seed", seed, least=0)
        if config.causal or config.norm_first or config.position == "rotary":
            raise ValueError(
                "a BERT encoder wants causal=False, norm_first=False and positions in its embedding, got "
                f"causal={config.causal}, norm_first={config.norm_first}, position={config.position!r}"
            )
        self.config = config
        self.embedding = Embedding(replace(config, dropout=0.0))  # here dropout comes after the norm
        self.segment = Table(n_segment, config.d_model, config.dtype, "segment")
        self.embedding_norm = make_norm(config)
        self.embedding_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        draw_weights(self, config, seed)
        settle(self, seed, Place())

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        lengths: Int[Tensor, " B"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Compute a vector per token. `lengths`: what lies behind is padding, its vectors mean nothing."""
        if tokens.shape[1] > self.config.max_seq:
            raise ValueError(f"a sequence wants at most max_seq={self.config.max_seq} tokens, got {tokens.shape[1]}")
        x = self.embedding(tokens)
        x = x + (self.segment.weight[0] if segments is None else self.segment(segments))
        x = self.embedding_dropout(self.embedding_norm(x))
        mask = None if lengths is None else padding_mask(lengths, tokens.shape[1])
        for block in self.blocks:
            x = block(x, mask=mask)
        return x

    def embed(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B D"]:
        """Compute a vector of length 1 per sequence, so that a product of two is the cosine of their angle."""
        return F.normalize(mean_pool(self(tokens, lengths), lengths), dim=-1)


def mean_pool(x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B D"]:
    """Average the vectors of each sequence's own tokens (Reimers and Gurevych 2019, section 3)."""
    if lengths is None:
        return x.mean(1)
    own = padding_mask(lengths, x.shape[1])[:, 0, 0, :, None]  # [B, T, 1]
    return x.masked_fill(~own, 0.0).sum(1) / lengths[:, None]
