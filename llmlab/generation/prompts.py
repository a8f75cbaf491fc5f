"""Prompts of any form as rows of one tensor, and back. Padding goes to the left: all rows grow at the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor, nn

from llmlab.arguments import instance, whole
from llmlab.model import EncoderDecoder
from llmlab.model.language_model import Tokens
from llmlab.model.text_encoder import TextEncoder

Prompts: TypeAlias = Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[Tensor]
RULE = "generate wants token ids: a list of integers, or a list of such lists, or an integer tensor [T] or [B, T]"
Padding = Int[Tensor, " B"]  # how many places at the start of each row hold no token


def pad(prompt_ids: Prompts) -> tuple[Tokens, Padding | None]:
    """Lay prompts side by side, [B, T], and say how much padding precedes each; None where there is none."""
    if many(prompt_ids):
        prompts = [ids_of(prompt) for prompt in prompt_ids]
    else:
        prompts = list(torch.atleast_2d(ids_of(prompt_ids)))
    if not prompts or not all(prompt.numel() for prompt in prompts):
        raise ValueError("generate wants prompts of at least one token, got an empty one")
    if any(prompt.dim() != 1 for prompt in prompts):
        raise ValueError(f"{RULE}, got more dimensions")
    longest = max(map(len, prompts))
    rows = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in zip(rows, prompts, strict=True):
        row[longest - len(prompt) :] = prompt
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    return rows, padding if padding.any() else None


def ids_of(prompt: Any) -> Tensor:
    """Make a tensor of a prompt's ids. Raises ValueError for anything but integers."""
    if isinstance(prompt, (list, tuple)) and not prompt:
        return torch.zeros(0, dtype=torch.long)
    try:
        ids = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError):  # what torch makes nothing of: text, ragged lists, None
        ids = torch.empty(0)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        hint = "; text becomes ids by tokenizer.encode" if isinstance(prompt, str) else ""
        raise ValueError(f"{RULE}; got {repr(prompt)[:60]}{hint}")
    return ids.long()


def many(prompt_ids: Prompts) -> bool:
    """Whether these are several prompts in a list, each of a length of its own."""
    if not isinstance(prompt_ids, (list, tuple)):
        return False
    return any(isinstance(i, (list, tuple, str)) or getattr(i, "ndim", 0) > 0 for i in prompt_ids)


def like(
    rows: Tokens, prompt_ids: Prompts, padding: Padding | None, start: int, end: int | None
) -> Tensor | list[Tensor]:
    """Give the rows in the form of the prompts: [T], [B, T], or a list without padding and without what follows `end`.

    start: where in the rows the prompts end and what is new begins.
    """
    if not many(prompt_ids):
        return rows[0] if torch.as_tensor(prompt_ids).dim() == 1 else rows
    texts = []
    for i, row in enumerate(rows):
        ends = (row[start:] == end).nonzero() if end is not None else []
        stop = start + int(ends[0]) + 1 if len(ends) else len(row)
        texts.append(row[0 if padding is None else int(padding[i]) : stop])
    return texts


def check_source(model: nn.Module, rows: int, source: Tensor | None, source_mask: Tensor | None) -> None:
    """Refuse a source that nothing would read, or one that is missing."""
    if not isinstance(model, EncoderDecoder):
        if source is not None or source_mask is not None:
            raise ValueError(
                f"only an EncoderDecoder reads a source, got source= or source_mask= for a {type(model).__name__}: "
                "what it should read belongs into the prompt"
            )
        return
    if source is None:
        raise ValueError("an EncoderDecoder wants a source for each prompt, got none")
    source = instance("generate", "source", source, Tensor)
    if source.dim() != 2 or len(source) != rows:
        got = len(source) if source.dim() == 2 else f"a shape of {list(source.shape)}"
        raise ValueError(f"an EncoderDecoder wants a source for each prompt, got {got} for {rows}")
    if source_mask is not None:
        shape = instance("generate", "source_mask", source_mask, Tensor).shape
        if len(shape) != 4 or shape[0] not in (1, rows) or shape[-1] not in (1, source.shape[1]):
            raise ValueError(f"source_mask wants shape [{rows} or 1, 1, 1, {source.shape[1]}], got {list(shape)}")


def check_prompts(model: nn.Module, prompts: Tokens, max_new_tokens: int) -> None:
    """Refuse, before anything runs, ids outside the vocabulary and texts longer than the model has positions."""
    whole("generate", "max_new_tokens", max_new_tokens, least=1)
    config: Any = getattr(model, "config", None)
    if config is None or isinstance(model, TextEncoder):
        raise ValueError(f"generate wants a language model, which gives logits; got a {type(model).__name__}")
    low, high, top = int(prompts.min()), int(prompts.max()), config.vocab_size - 1
    if low < 0 or high > top:
        raise ValueError(f"token ids want 0 to {top}, the model's vocabulary, got {low} to {high}")
    length, most = prompts.shape[1] + max_new_tokens, config.max_seq
    if length > most:
        raise ValueError(
            f"prompt and new tokens want at most max_seq={most} together, got {prompts.shape[1]} + {max_new_tokens}"
        )
