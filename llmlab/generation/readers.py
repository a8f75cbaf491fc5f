"""A model and the texts it has read so far: `logits` says what may follow, `append` goes on by a token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmlab.generation.prompts import Padding
from llmlab.model import EncoderDecoder, Transformer
from llmlab.model.language_model import LanguageModel, Tokens


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
    """A Transformer, which with a cache reads only what is new, and can be told where padding ends."""

    model: Transformer
    takes_padding = True

    def __init__(self, model: Transformer, tokens: Tokens, padding: Padding | None, room: int, use_cache: bool):
        """room: the largest number of tokens a text may grow to."""
        super().__init__(model, tokens, padding)
        self.caches = model.make_caches(len(tokens), room) if use_cache else None

    def logits(self) -> Float[Tensor, "B V"]:
        seen = self.caches[0].length if self.caches else 0
        positions, mask = self.places(seen)
        features = self.model.features(self.tokens[:, seen:], positions, mask, self.caches)
        return self.model.head(features[:, -1])

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
        source: Int[Tensor, "B S"] | None,
        mask: Bool[Tensor, "#B #h #T #S"] | None,
    ):
        super().__init__(model, tokens, padding)
        if source is None or len(source) != len(tokens):
            got = "none" if source is None else f"{len(source)} for {len(tokens)}"
            raise ValueError(f"an EncoderDecoder wants a source for each prompt, got {got}")
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
) -> Reader:
    if isinstance(model, EncoderDecoder):
        return Translator(model, tokens, padding, source, source_mask)
    if isinstance(model, Transformer):
        return TransformerReader(model, tokens, padding, room, use_cache)
    return Reader(model, tokens, padding)
