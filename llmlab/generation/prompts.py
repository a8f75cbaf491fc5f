"""Prompts of any form as rows of one tensor, and back. Padding goes to the left: all rows grow at the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from llmlab.model.language_model import LanguageModel, Tokens

Prompts: TypeAlias = Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[Tensor]
Padding = Int[Tensor, " B"]  # how many places at the start of each row hold no token


def pad(prompt_ids: Prompts) -> tuple[Tokens, Padding | None]:
    """Lay prompts side by side, [B, T], and say how much padding precedes each; None where there is none."""
    if many(prompt_ids):
        prompts = [torch.as_tensor(prompt) for prompt in prompt_ids]
    else:
        prompts = list(torch.atleast_2d(torch.as_tensor(prompt_ids)))
    if not prompts or not all(prompt.numel() for prompt in prompts):
        raise ValueError("generate wants prompts of at least one token, got an empty one")
    if any(prompt.dim() != 1 or prompt.is_floating_point() for prompt in prompts):
        raise ValueError("generate wants token ids: a list of integers, or a list of such lists, or an integer tensor")
    longest = max(map(len, prompts))
    rows = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in zip(rows, prompts, strict=True):
        row[longest - len(prompt) :] = prompt
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    return rows, padding if padding.any() else None


def many(prompt_ids: Prompts) -> bool:
    """Whether these are several prompts in a list, each of a length of its own."""
    return isinstance(prompt_ids, list | tuple) and any(not isinstance(i, int) for i in prompt_ids)


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


def check_prompts(model: LanguageModel, prompts: Tokens, max_new_tokens: int) -> None:
    """Refuse, before anything runs, ids outside the vocabulary and texts longer than the model has positions."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens wants at least 1, got {max_new_tokens}")
    low, high, top = int(prompts.min()), int(prompts.max()), model.config.vocab_size - 1
    if low < 0 or high > top:
        raise ValueError(f"token ids want 0 to {top}, the model's vocabulary, got {low} to {high}")
    length, most = prompts.shape[1] + max_new_tokens, model.config.max_seq
    if length > most:
        raise ValueError(
            f"prompt and new tokens want at most max_seq={most} together, got {prompts.shape[1]} + {max_new_tokens}"
        )
