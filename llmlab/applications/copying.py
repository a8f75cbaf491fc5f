"""A decoder that may copy: its source ends in a draft of the translation, and each token is written or copied.

    source   Open the file <line end> 打 开 the 文 件 <end>
    P(y) = g P_written(y) + (1 - g) sum of the copy attention on the places of the source where y stands

The mixture is the pointer-generator's (See, Liu and Manning 2017). Ours starts as a copier: the copy attention leans
towards the places that come after the token just written, and g is small, so untrained it mostly copies the draft.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmlab.applications.remembering import Pair, checked_pairs
from llmlab.applications.translating import BEGIN, translate
from llmlab.arguments import instance
from llmlab.model import Config, EncoderDecoder
from llmlab.text import BPE
from llmlab.text.segmentation import join_words, words

SEPARATOR = "\n"  # between a source and its draft; prose_pairs lets no line end through
LEANING = (4.0, 2.0)  # how much likelier a place is, in nats, after the last token written, after the last two
RARELY = -2.0  # the logit of g at the start
TINY = 1e-9  # a probability that has a logarithm


class Copier(EncoderDecoder):
    """An EncoderDecoder that may copy tokens of its source. Its logits are the logarithms of the mixture above.

    separator, begin: the ids of the token before the draft and of the one before a translation, which are as one.
    """

    def __init__(self, config: Config, separator: int, begin: int, seed: int = 0):
        super().__init__(config, seed)
        self.separator, self.begin = separator, begin
        self.query, self.gate = nn.Linear(config.d_model, config.d_model, bias=False), nn.Linear(config.d_model, 1)
        self.leaning = nn.Parameter(torch.tensor(LEANING))
        nn.init.normal_(self.query.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, RARELY)

    @classmethod
    def of(cls, config: Config, tokenizer: BPE, seed: int = 0) -> Copier:
        """Make one for a tokenizer of `pair_tokenizer`."""
        return cls(config, tokenizer.encode(SEPARATOR)[0], tokenizer.specials[BEGIN], seed)

    def encode(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B 1 1 S"] | None = None) -> Float[Tensor, "B S E"]:
        """Read the source; the tokens themselves stand in one more column, as the decoder copies them."""
        return torch.cat([super().encode(source, mask), source[..., None]], -1)

    def decode(
        self, target: Int[Tensor, "B T"], memory: Float[Tensor, "B S E"], mask: Bool[Tensor, "B 1 1 S"] | None = None
    ) -> Float[Tensor, "B T V"]:
        """Compute ln P of the token after each of `target`, written or copied."""
        memory, source = memory[..., :-1], memory[..., -1].long()
        x = self.embedding(target)
        rotation = self.rotation(x)
        for block in self.decoder:
            x = block(x, rotation, memory=memory, memory_mask=mask)
        x = self.norm(x)
        scores = self.query(x) @ memory.mT / x.shape[-1] ** 0.5 + self._lean(target, source)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], float("-inf"))
        g = self.gate(x).sigmoid()
        written = g * self.head(x).softmax(-1)
        places = source[:, None].expand_as(scores)
        return written.scatter_add(-1, places, (1 - g) * scores.softmax(-1)).clamp(min=TINY).log()

    def _lean(self, target: Int[Tensor, "B T"], source: Int[Tensor, "B S"]) -> Float[Tensor, "B T S"]:
        source = source.masked_fill(source == self.separator, self.begin)
        one = target[:, :, None] == _later(source, 1)[:, None]
        two = one & (_later(target, 1)[:, :, None] == _later(source, 2)[:, None])
        return self.leaning[0] * one + self.leaning[1] * two


def _later(ids: Int[Tensor, "B N"], by: int) -> Int[Tensor, "B N"]:
    """Move tokens to later places; -1 comes in, which is no token."""
    return nn.functional.pad(ids, (by, 0), value=-1)[:, : ids.shape[1]]


def spaced(text: str) -> str:
    """Put a blank before each word, each Chinese character one: so its tokens are the same wherever it stands."""
    return "".join(f" {word}" for word in words(text))


def with_drafts(pairs: Sequence[Pair], drafts: Sequence[str]) -> list[Pair]:
    """Give the pairs that a Copier learns: (source and draft, translation)."""
    pairs = checked_pairs("with_drafts", pairs)
    return [
        (text, spaced(wanted)) for text, (_, wanted) in zip(_read([a for a, _ in pairs], drafts), pairs, strict=True)
    ]


def correct_drafts(model: Copier, tokenizer: BPE, texts: Sequence[str], drafts: Sequence[str]) -> list[str]:
    """Translate texts whose drafts are known, greedily. Raises ValueError unless there is a draft for each text."""
    instance("correct_drafts", "model", model, Copier)
    return [join_words(found.split()) for found in translate(model, tokenizer, _read(texts, drafts), beams=1)]


def _read(texts: Sequence[str], drafts: Sequence[str]) -> list[str]:
    if len(drafts) != len(texts):
        raise ValueError(f"a Copier wants a draft for each of {len(texts)} texts, got {len(drafts)}")
    return [f"{text}{SEPARATOR}{spaced(draft)}" for text, draft in zip(texts, drafts, strict=True)]
