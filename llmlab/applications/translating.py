"""Translation by an encoder-decoder, from pairs of sentences.

    source   Open the file <end>                         the encoder reads it at once
    inputs   <begin> 打 开 文 件                           the decoder sees the translation so far ...
    targets  打 开 文 件 <end>                             ... and is asked for the next token

One byte-level BPE serves both languages. Padding of the source is masked out, that of the target is IGNORE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmlab.applications.remembering import Pair, checked_pairs
from llmlab.arguments import instance, listing, string, whole
from llmlab.evaluate import evaluating
from llmlab.generation import generate
from llmlab.model import IGNORE, EncoderDecoder
from llmlab.model.attention import padding_mask
from llmlab.text import BPE
from llmlab.text.segmentation import HAN

Row = tuple[list[int], list[int]]  # tokens of the source with <end>, and of the translation between <begin> and <end>
BEGIN, END = "<begin>", "<end>"
_NO_PROSE = re.compile(r"[{}\[\]<>|`\\$\n]|%[\w(]|https?:|www\.")
_HAN = re.compile(f"[{HAN}]")


class PairBatch(NamedTuple):
    """Sentences side by side, padded; the targets come last, as in every batch."""

    source: Int[Tensor, "B S"]
    mask: Bool[Tensor, "B 1 1 S"]  # True at tokens of the source
    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


def prose_pairs(pairs: Sequence[Pair], least: int = 1, most: int = 30) -> list[Pair]:
    """Keep the pairs of `least` to `most` English words whose other side has Chinese, each once.

    What holds a placeholder such as {entity_name}, a tag, an address or a line end is left out.
    """
    whole("prose_pairs", "least, of words,", least, least=1)
    whole("prose_pairs", "most, of words,", most, least=least)
    return [
        (source, target)
        for source, target in dict.fromkeys(checked_pairs("prose_pairs", pairs))
        if least <= len(source.split()) <= most and _HAN.search(target) and not _NO_PROSE.search(source + target)
    ]


def pair_tokenizer(pairs: Sequence[Pair], vocab_size: int = 4096) -> BPE:
    """Train a BPE on both sides of the pairs, with tokens for where a translation begins and where a text ends."""
    texts = [text for pair in checked_pairs("pair_tokenizer", pairs) for text in pair]
    return BPE.train(texts, vocab_size, specials=[BEGIN, END])


def encode_pairs(tokenizer: BPE, pairs: Sequence[Pair], max_seq: int) -> list[Row]:
    """Turn pairs into tokens; those of more than `max_seq` tokens on a side are left out."""
    begin, end = _specials(tokenizer)
    rows = [
        ([*tokenizer.encode(source), end], [begin, *tokenizer.encode(target), end])
        for source, target in checked_pairs("encode_pairs", pairs)
    ]
    return [row for row in rows if max(map(len, row)) <= max_seq]


def pair_batch(rows: Sequence[Row]) -> PairBatch:
    """Lay encoded pairs side by side."""
    end = rows[0][0][-1]
    source = _padded([source for source, _ in rows], end)
    lengths = torch.tensor([len(source) for source, _ in rows])
    mask = padding_mask(lengths, source.shape[1])
    inputs = _padded([target[:-1] for _, target in rows], end)
    return PairBatch(source, mask, inputs, _padded([target[1:] for _, target in rows], IGNORE))


def pair_batches(rows: Sequence[Row], batch: int, seed: int = 0, epochs: int | None = None) -> Iterator[PairBatch]:
    """Give batches of pairs of about the same length, in random order; epochs: None goes on for ever.

    Where all were of random lengths most of a batch would be padding.
    """
    rows = listing("pair_batches", "rows", rows, "what encode_pairs gives")
    whole("pair_batches", "batch, of pairs,", batch, least=1)
    if len(rows) < batch:
        raise ValueError(f"pair_batches wants at least a batch of {batch} pairs, got {len(rows)}")
    random, epoch = Random(seed), 0
    while epochs is None or epoch < epochs:
        ordered = sorted(random.sample(rows, len(rows)), key=lambda row: (len(row[1]), len(row[0])))
        starts = list(range(0, len(rows) - batch + 1, batch))
        random.shuffle(starts)
        yield from (pair_batch(ordered[start : start + batch]) for start in starts)
        epoch += 1


def pair_loss(model: nn.Module, batch: PairBatch) -> Float[Tensor, ""]:
    """Compute the sum of the targets' losses, in nats: what a Trainer wants."""
    source, mask, inputs, targets = batch
    return model.loss(source, inputs, targets, mask, reduction="sum")  # type: ignore[operator]


def pair_logits(model: nn.Module, batch: PairBatch) -> Float[Tensor, "B T V"]:
    """Compute the logits of every target: what evaluate.mean_loss wants."""
    source, mask, inputs, _ = batch
    return model(source, inputs, mask)


def translate(
    model: EncoderDecoder,
    tokenizer: BPE,
    texts: Sequence[str],
    beams: int = 4,
    max_new_tokens: int = 60,
    batch: int = 32,
) -> list[str]:
    """Translate texts, in batches of about the same length, by beam search.

    A text longer than the model has positions is cut at the end. Raises ValueError for one string: pass [text].
    """
    instance("translate", "model", model, EncoderDecoder)
    texts = [string("translate", "each text", text) for text in listing("translate", "texts", texts)]
    whole("translate", "batch", batch, least=1)
    begin, end = _specials(tokenizer)
    most = model.config.max_seq
    max_new_tokens = min(whole("translate", "max_new_tokens", max_new_tokens, least=1), most - 1)
    sources = [[*tokenizer.encode(text)[: most - 1], end] for text in texts]
    order, found = sorted(range(len(texts)), key=lambda i: len(sources[i])), [""] * len(texts)
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        source = _padded([sources[i] for i in some], end)
        mask = padding_mask(torch.tensor([len(sources[i]) for i in some]), source.shape[1])
        given = [[begin]] * len(some)
        ids = generate(model, given, max_new_tokens, beams=beams, end=end, source=source, source_mask=mask)
        for i, row in zip(some, ids, strict=True):
            found[i] = tokenizer.decode(token for token in row.tolist() if token not in (begin, end))
    return found


def translation_scores(model: EncoderDecoder, tokenizer: BPE, source: str, targets: Sequence[str]) -> list[float]:
    """Compute ln P(target | source) of each translation, a token: how likely the model finds each, whoever made it."""
    instance("translation_scores", "model", model, EncoderDecoder)
    targets = listing("translation_scores", "targets", targets, "texts")
    most = model.config.max_seq
    rows = encode_pairs(tokenizer, [(source, target) for target in targets], 10**9)
    batch = pair_batch([(a[:most], b[:most]) for a, b in rows])
    wanted = batch.targets != IGNORE
    with evaluating(model):
        scores = pair_logits(model, batch).log_softmax(-1)
    found = scores.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0].where(wanted, 0.0)
    return (found.sum(1) / wanted.sum(1)).tolist()


def _specials(tokenizer: BPE) -> tuple[int, int]:
    absent = [special for special in (BEGIN, END) if special not in instance("", "tokenizer", tokenizer, BPE).specials]
    if absent:
        raise ValueError(f"a translation wants a tokenizer with {BEGIN} and {END}, as pair_tokenizer makes one")
    return tokenizer.specials[BEGIN], tokenizer.specials[END]


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Int[Tensor, "B T"]:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
