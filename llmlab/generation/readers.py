"""A model and the texts it has read so far: `logits` says what may follow, `append` goes on by a token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmlab.generation.prompts import Padding
from llmlab.model import EncoderDecoder, Transformer
from llmlab.model.language_model import LanguageModel, Tokens
from llmlab.model.whole import Whole


class Reader:
    """Any model that maps tokens to logits. It reads the whole text for every token, and cannot pass over padding."""

    takes_padding = False

    def __init__(self, model: LanguageModel, tokens: Tokens, padding: Padding | None):
        if padding is not None and not self.takes_padding:
            raise ValueError(
                f"{type(model).__name__} wants prompts of one length, got prompts shorter than the longest by "
                f"{sorted(set(padding.tolist()))}"
            )
        self.model, self.tokens, self.padding = model, tokens, padding

    def logits(self) -> Float[Tensor, "B V"]:
        """Compute the logits of the token after the last."""
        return self.model(self.tokens)[:, -1]

    def append(self, new: Int[Tensor, " B"]) -> None:
        """Add a token to each text."""
        self.tokens = torch.cat((self.tokens, new[:, None]), dim=1)

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keep these texts, in this order."""
        self.tokens = self.tokens[rows]


class TransformerReader(Reader):
    """A Transformer, which with a cache reads only what is new, and can be told where padding ends.

    Of a split one, `whole` answers. What looks ahead (causal=False) sees every token anew with each that is added, so
    nothing of it can be kept.
    """

    model: Transformer
    takes_padding = True

    def __init__(
        self,
        model: Transformer,
        tokens: Tokens,
        padding: Padding | None,
        room: int,
        use_cache: bool,
        whole: Whole | None = None,
    ):
        """room: the largest number of tokens a text may grow to."""
        super().__init__(model, tokens, padding)
        self.whole = model if whole is None else whole
        self.caches = self.whole.make_caches(len(tokens), room) if use_cache and model.config.causal else None

    def logits(self) -> Float[Tensor, "B V"]:
        seen = self.caches[0].length if self.caches else 0
        positions, mask = self.places(seen)
        return self.whole.last_logits(self.tokens[:, seen:], positions, mask, self.caches)

    def places(self, seen: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B 1 1 S"]] | tuple[None, None]:
        """Count positions from the end of each row's padding, and hide the padding from everybody."""
        if self.padding is None:
            return None, None
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device) - self.padding[:, None]
        return columns[:, seen:].clamp(min=0), (columns >= 0)[:, None, None]

    def select(self, rows: Int[Tensor, " B"]) -> None:
        super().select(rows)
        for cache in self.caches or ():
            cache.select(rows)


class Translator(Reader):
    """An encoder-decoder: the source is read once, the translation so far for every new token."""

    model: EncoderDecoder

    def __init__(
        self,
        model: EncoderDecoder,
        tokens: Tokens,
        padding: Padding | None,
        source: Int[Tensor, "B S"],
        mask: Bool[Tensor, "#B #h #T #S"] | None,
    ):
        super().__init__(model, tokens, padding)
        # rows that `select` exchanges are beams of one source, so the memory stays in its place
        self.memory, self.mask = model.encode(source, mask), mask

    def logits(self) -> Float[Tensor, "B V"]:
        return self.model.decode(self.tokens, self.memory, self.mask)[:, -1]


def make_reader(
    model: LanguageModel,
    tokens: Tokens,
    padding: Padding | None,
    room: int,
    use_cache: bool,
    source: Int[Tensor, "B S"] | None = None,
    source_mask: Bool[Tensor, "#B #h #T #S"] | None = None,
    whole: Whole | None = None,
) -> Reader:
    if isinstance(model, EncoderDecoder):
        assert source is not None
        return Translator(model, tokens, padding, source, source_mask)
    if isinstance(model, Transformer):
        return TransformerReader(model, tokens, padding, room, use_cache, whole)
    return Reader(model, tokens, padding)
