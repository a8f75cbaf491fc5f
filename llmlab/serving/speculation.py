"""Speculative decoding: something cheap guesses the next tokens, the model reads all guesses at once and judges.

    guessed   over the lazy cat                     one step of the model: reads 4 tokens, its weights once
    judged    over the lazy [dog]                   three guesses kept, and the token that came instead of the fourth

A step that decodes is bound by reading the weights, so judging five tokens costs about what making one does. The text
stays the model's own: greedily a guess is kept if it is the likeliest token; at a temperature it is kept with
probability min(1, p/q), p the model's probability of it and q the guesser's, and otherwise a token is drawn from what p
has beyond q, max(0, p - q) made to add up to 1: together exactly p (Leviathan et al. 2023, section 2.3).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from llmlab.arguments import real, whole
from llmlab.evaluate.scores import finite
from llmlab.generation.sampling import draw, probabilities
from llmlab.serving.requests import Sequence
from llmlab.serving.scheduler import Chunk, in_order


class NGram:
    """Guess that what followed the last few tokens before follows them again (Saxena 2023, "prompt lookup").

    tokens: how many to guess at most.  longest: how many of the last tokens to look for, fewer if those are not found.
    acceptance: of a guess, where nobody can judge: under the virtual clock without numbers.
    """

    def __init__(self, tokens: int = 4, longest: int = 3, acceptance: float = 0.5):
        self.acceptance = real("NGram", "acceptance", acceptance, least=0, most=1)
        self.tokens = whole("NGram", "tokens", tokens, least=1)
        self.longest = whole("NGram", "longest", longest, least=1)

    def guess(self, chunks: list[Chunk]) -> None:
        """Add guesses to chunks that have room for some."""
        for chunk in chunks:
            if chunk.room:
                chunk.guesses = self.after(chunk.sequence.tokens)[: chunk.room]

    def after(self, tokens: list[int]) -> list[int]:
        """Give what followed the latest earlier place that ends like these tokens, and if need be follows it again."""
        for n in range(min(self.longest, len(tokens) - 1), 0, -1):
            end = tokens[-n:]
            for i in range(len(tokens) - n - 1, -1, -1):
                if tokens[i : i + n] == end:
                    period = len(tokens) - n - i
                    return [tokens[i + n + j % period] for j in range(self.tokens)]
        return []


class Draft:
    """Let a smaller model of the same vocabulary guess. Its keys and values lie in the same blocks as the model's."""

    def __init__(self, model: Any, tokens: int = 4, acceptance: float = 0.7):
        self.acceptance = real("Draft", "acceptance", acceptance, least=0, most=1)
        self.model, self.tokens = model, whole("Draft", "tokens", tokens, least=1)
        self.paged: Any = None  # set by the engine, which knows the blocks

    def guess(self, chunks: list[Chunk]) -> None:
        """Read what the model has read since, then guess token by token, all sequences at once."""
        chunks = [chunk for chunk in chunks if chunk.room]
        unread = {}
        for chunk in chunks:
            chunk.guesses, chunk.chances, sequence = [], [], chunk.sequence
            unread[chunk] = Chunk(sequence, sequence.drafted, len(sequence.tokens) - sequence.drafted)
        while unread:
            self._guess_one(unread)
            unread = {chunk: self._next(chunk) for chunk in unread if len(chunk.guesses) < chunk.room}
        for chunk in chunks:  # the last guess was not read; those refused are forgotten when the tokens are known
            chunk.sequence.drafted = len(chunk.sequence.tokens) + len(chunk.guesses) - 1

    def _next(self, chunk: Chunk) -> Chunk:
        at = len(chunk.sequence.tokens) + len(chunk.guesses) - 1
        return Chunk(chunk.sequence, at, 0, guesses=chunk.guesses[-1:])

    def _guess_one(self, unread: dict[Chunk, Chunk]) -> None:
        whose = {own: chunk for chunk, own in unread.items()}
        owns = in_order(list(whose))
        wanted, row = [], -1
        for own in owns:
            row += len(own.tokens)
            wanted.append(row)
        logits = self.paged.logits(owns, wanted)
        best = [0] * len(owns) if logits is None else finite("Draft", logits).argmax(-1).tolist()
        for row, (own, token) in enumerate(zip(owns, best, strict=True)):
            chunk, request = whose[own], own.sequence.request
            if request.temperature and logits is not None:
                q = probabilities(logits[row], request.temperature, request.top_k, request.top_p)
                token = pick(q, own.sequence)
                chunk.chances.append(q)
            chunk.guesses.append(token)


def judge(chunk: Chunk, logits: Float[Tensor, "G V"], best: list[int]) -> list[int]:
    """Give the tokens that follow: the guesses that hold, and one of the model's own.

    logits: after the last known token and after each guess.  best: the likeliest token of each.
    """
    sequence, guesses, request = chunk.sequence, chunk.guesses, chunk.sequence.request
    if not request.temperature:
        kept = 0
        while kept < len(guesses) and best[kept] == guesses[kept]:
            kept += 1
        return best[: kept + 1]
    p = probabilities(logits, request.temperature, request.top_k, request.top_p)
    for i, guess in enumerate(guesses):
        q = chunk.chances[i] if chunk.chances else torch.zeros_like(p[i]).index_fill(0, torch.tensor([guess]), 1.0)
        if not sequence.draw() * float(q[guess]) < float(p[i, guess]):
            return [*guesses[:i], pick((p[i] - q).clamp(min=0.0), sequence)]
    return [*guesses, pick(p[-1], sequence)]


def pick(p: Float[Tensor, " V"], sequence: Sequence) -> int:
    """Draw a token with the request's own random numbers; p need not add up to 1."""
    return int(draw(p[None], torch.tensor([sequence.draw()], device=p.device)))
