"""Classes instead of words: an encoder with a linear layer on top, for a whole text or for each of its tokens.

    text:   tokens -> a vector each -> their mean -> C logits        (sentiment, topic)
    token:  tokens -> a vector each -> C logits each                 (parts of speech, names, roles)

The layer that a language model has on top, V logits per token, is left out (Devlin et al. 2019, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.arguments import choice, instance, whole
from llmlab.model.attention import padding_mask
from llmlab.model.initial import draw
from llmlab.model.layers import Linear
from llmlab.model.loss import cross_entropy
from llmlab.model.text_encoder import TextEncoder, mean_pool
from llmlab.model.transformer import Transformer


class Classifier(nn.Module):
    """Tokens to logits over classes: [B, T] -> [B, C], or [B, T, C] with per="token"."""

    def __init__(self, encoder: Transformer | TextEncoder, n_class: int, per: str = "text", seed: int = 0):
        """encoder: `Transformer(config)` with causal=False, or a pretrained TextEncoder.

        Raises: ValueError for a causal model: its tokens have not seen what comes after them.
        """
        super().__init__()
        instance("Classifier", "encoder", encoder, (Transformer, TextEncoder))
        self.per = choice("Classifier", "per", per, ("text", "token"))
        self.n_class = whole("Classifier", "n_class", n_class, least=2)
        if encoder.config.causal:
            raise ValueError("Classifier wants an encoder, whose tokens see both sides, got a model with causal=True")
        config = encoder.config
        self.encoder = encoder
        self.head = Linear(config.d_model, n_class, bias=True, dtype=config.dtype)
        with torch.no_grad():
            self.head.weight.copy_(draw("head.weight", self.head.weight.shape, config, seed))
            self.head.bias.zero_()

    def forward(
        self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C"] | Float[Tensor, "B T C"]:
        """Compute the logits. `lengths`: what lies behind is padding, which is not looked at nor averaged."""
        _check_tokens("Classifier", tokens, lengths)
        vectors = self.vectors(tokens, lengths)
        return self.head(mean_pool(vectors, lengths) if self.per == "text" else vectors)

    def vectors(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"] | None) -> Float[Tensor, "B T D"]:
        """Compute the encoder's vector for each token."""
        if isinstance(self.encoder, TextEncoder):
            return self.encoder(tokens, lengths)
        return self.encoder.features(tokens, mask=None if lengths is None else padding_mask(lengths, tokens.shape[1]))

    def loss(
        self,
        tokens: Int[Tensor, "B T"],
        lengths: Int[Tensor, " B"] | None,
        targets: Int[Tensor, " *B"],
        reduction: str = "mean",
    ) -> Float[Tensor, ""]:
        """Compute the cross-entropy in nats per text, or per token; a target of -100 (padding) does not count."""
        return cross_entropy(self(tokens, lengths), targets, reduction=reduction)

    def predict(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"] | None = None) -> Int[Tensor, " *B"]:
        """Give the likeliest class of each text, or of each token, without dropout or gradients.

        Raises: ValueError for a string: a model reads numbers, which a tokenizer makes.
        """
        _check_tokens("predict", tokens, lengths)
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(tokens, lengths).argmax(-1)
        finally:
            self.train(was)


def _check_tokens(call: str, tokens: Any, lengths: Any) -> None:
    """Say what to do with text: it is what everybody tries first."""
    if isinstance(tokens, str) or (isinstance(tokens, list) and any(isinstance(each, str) for each in tokens)):
        shown = repr(tokens if isinstance(tokens, str) else tokens[0])
        raise ValueError(
            f"{call} wants token ids [B, T], got text: {shown[:40]}. A model reads numbers: make them with the "
            "tokenizer it was trained with, tokens, lengths = lab.text.padded([tokenizer.encode(text)])"
        )
    instance(call, "tokens", tokens, Tensor, "write torch.tensor([ids]), or lab.text.padded([ids])")
    if tokens.dim() != 2 or not tokens.numel():
        raise ValueError(f"{call} wants tokens [B, T], one row per text, got shape {tuple(tokens.shape)}")
    if lengths is not None:
        instance(call, "lengths", lengths, Tensor)
        if lengths.shape != tokens.shape[:1]:
            raise ValueError(f"{call} wants a length per text, [{len(tokens)}], got shape {tuple(lengths.shape)}")
