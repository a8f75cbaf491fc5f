"""The encoder-decoder of the paper: one half reads a sequence, the other writes one (Vaswani et al. 2017, figure 1)."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.model.attention import Attention, KVCache, Mask
from llmlab.model.config import Config
from llmlab.model.dropout import Dropout
from llmlab.model.embedding import Rotation
from llmlab.model.language_model import LanguageModel, Tokens
from llmlab.model.layers import make_norm
from llmlab.model.loss import IGNORE
from llmlab.model.transformer import Block

Source = Int[Tensor, "B S"]


class DecoderBlock(Block):
    """A causal Block with a third sublayer between its two: attention to what the encoder made of the source."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.cross_norm = make_norm(config)
        self.cross = Attention(config, causal=False)
        self.cross_dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        cache: KVCache | None = None,
        memory: Float[Tensor, "B S D"] | None = None,
        memory_mask: Mask | None = None,
    ) -> Float[Tensor, "B T D"]:
        if self.norm_first:
            x = x + self.attention_dropout(self.attention(self.attention_norm(x), rotation, mask, cache))
            x = x + self.cross_dropout(self.cross(self.cross_norm(x), mask=memory_mask, memory=memory))
            return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.attention_dropout(self.attention(x, rotation, mask, cache)))
        x = self.cross_norm(x + self.cross_dropout(self.cross(x, mask=memory_mask, memory=memory)))
        return self.mlp_norm(x + self.mlp_dropout(self.mlp(x)))


class EncoderDecoder(LanguageModel):
    """Source and target tokens to logits of the target, with n_layer blocks on each side and one vocabulary for both.

    The embedding is shared by both sides, as in the paper, section 3.4. Padding of the source is masked out by `mask`;
    padding of the target needs no mask: it comes last, and causality hides it.
    """

    def __init__(self, config: Config, seed: int = 0):
        super().__init__(config, seed)
        reading, writing = replace(config, causal=False), replace(config, causal=True)
        self.encoder = nn.ModuleList(Block(reading) for _ in range(config.n_layer))
        self.encoder_norm = make_norm(config) if config.norm_first else nn.Identity()
        self.decoder = nn.ModuleList(DecoderBlock(writing) for _ in range(config.n_layer))
        self.norm = make_norm(config) if config.norm_first else nn.Identity()
        self.finish()

    def forward(self, source: Source, target: Tokens, mask: Mask | None = None) -> Float[Tensor, "B T V"]:
        """Compute the logits of the token after each of `target`. `mask`: True at source tokens that may be read."""
        return self.decode(target, self.encode(source, mask), mask)

    def encode(self, source: Source, mask: Mask | None = None) -> Float[Tensor, "B S D"]:
        """Read the source, every token seeing every other."""
        self.check_length(source)
        x = self.embedding(source)
        rotation = self.rotation(x)
        for block in self.encoder:
            x = block(x, rotation, mask)
        return self.encoder_norm(x)

    def decode(
        self, target: Tokens, memory: Float[Tensor, "B S D"], mask: Mask | None = None
    ) -> Float[Tensor, "B T V"]:
        """Write: each token sees the ones before it, and the whole memory where `mask` allows."""
        self.check_length(target)
        x = self.embedding(target)
        rotation = self.rotation(x)
        for block in self.decoder:
            x = block(x, rotation, memory=memory, memory_mask=mask)
        return self.head(self.norm(x))

    def loss(
        self,
        source: Source,
        inputs: Tokens,
        targets: Tokens,
        mask: Mask | None = None,
        reduction: str = "mean",
    ) -> Float[Tensor, ""]:
        """Compute the cross-entropy of `targets`, given the source and `inputs`, the targets shifted right."""
        padded = mask is not None and mask.shape == (source.shape[0], 1, 1, source.shape[1])
        with self.place.counting(mask[:, 0, 0] if mask is not None and padded else None):
            memory = self.encode(source, mask)
        with self.place.counting(targets != IGNORE):
            logits = self.decode(inputs, memory, mask)
        return self.loss_of(logits, targets, reduction)
