"""Text from a model, token after token: the likeliest (greedy), a random one, or the likeliest of several texts (beams).

Random tokens come from softmax(logits / temperature), cut to the `top_k` likeliest (Fan et al. 2018) and to the fewest
whose probabilities reach `top_p` (Holtzman et al. 2020). With a cache (see `KVCache`) a new token costs one row of
attention instead of all of them; the text is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llmlab.evaluate import evaluating
from llmlab.model import EncoderDecoder, Transformer

Tokens = Int[Tensor, "B T"]
Read = Callable[[Tokens], Float[Tensor, "B V"]]  # takes the next tokens, gives the logits of what follows them


def generate(
    model: nn.Module,
    prompt_ids: Tensor | Sequence[int] | Sequence[Sequence[int]],
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    use_cache: bool = True,
    seed: int = 0,
    *,
    beams: int = 1,
    length_penalty: float = 1.0,
    end: int | None = None,
    source: Int[Tensor, "B S"] | None = None,
    source_mask: Bool[Tensor, "#B #h #T #S"] | None = None,
) -> Any:
    """Continue prompts by up to `max_new_tokens` tokens; give prompt and continuation, in the form of the prompt.

    prompt_ids: one prompt (a list of ids, or [T]) gives [T + new]; [B, T] gives [B, T + new], filled up with `end`; a list
    of prompts of any lengths gives a list.  temperature: 0 takes the likeliest token, else see `probabilities`.  seed: the
    same gives the same text.  use_cache: a model that keeps no cache reads everything again for each token, as with False.
    beams: keep so many texts and give the one of the highest ln P / length^length_penalty.  end: a token to stop after.
    source, source_mask: what an EncoderDecoder translates; its prompts are what the translations begin with.
    """
    prompts, padding = _rows(prompt_ids)
    _check(model, prompts, max_new_tokens, temperature, top_k, top_p, beams)
    device = next(model.parameters()).device
    prompts, padding = (x if x is None else x.to(device).repeat_interleave(beams, 0) for x in (prompts, padding))
    with evaluating(model):
        read = _reader(model, prompts, padding, max_new_tokens, use_cache, source, source_mask, beams)
        if beams > 1:
            new = _beam_search(read, prompts, max_new_tokens, beams, length_penalty, end)
        else:
            new = _sample(read, prompts, max_new_tokens, temperature, top_k, top_p, seed, end)
    ...


def probabilities(
    logits: Float[Tensor, "*B V"], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "*B V"]:
    """Compute softmax(logits / temperature) of the `top_k` likeliest, then of the fewest that reach `top_p` together.

    A lower temperature sharpens, a higher one flattens. What is cut has probability 0, the rest adds up to 1.
    """
    logits = logits - logits.amax(-1, keepdim=True)  # so that a tiny temperature overflows to -inf only
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    p = (logits / temperature).softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    if top_p is not None and top_p < 1:
        ordered, order = p.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # the likeliest token has nothing before it, so it stays
        p = p.masked_fill((before >= top_p).gather(-1, order.argsort(-1)), 0.0)
        p = p / p.sum(-1, keepdim=True)
    return p
