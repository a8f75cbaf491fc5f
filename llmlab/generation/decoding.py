"""Text from a model, token by token: the likeliest (greedy), a random one, or the likeliest text of several (beams).

With a cache (see `KVCache`) a new token costs one row of attention instead of all of them; the text is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from llmlab.arguments import flag, real, whole
from llmlab.evaluate import evaluating
from llmlab.evaluate.scores import finite
from llmlab.generation.prompts import Prompts, check_prompts, check_source, like, pad
from llmlab.generation.readers import Reader, make_reader
from llmlab.generation.sampling import Choose, check_choice, greedy, sampler, wide
from llmlab.model.language_model import Tokens
from llmlab.model.whole import model_of, whole_of


def generate(
    model: Any,
    prompt_ids: Prompts,
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
) -> Tensor | list[Tensor]:
    """Continue prompts by up to `max_new_tokens` tokens; give prompt and continuation together.

    model: a language model, or a training step that holds one. All who hold a part of a split one call alike, and get
    the same text.
    prompt_ids: one prompt (a list of ids, or [T]) gives [T + new]; [B, T] gives [B, T + new], filled up with `end`; a
    list of prompts of any lengths gives a list.  temperature: 0 takes the likeliest token, else see `probabilities`.
    seed: prompt i draws with seed + i.  use_cache: a model without one reads the whole text for every token, as if
    False.  beams: keep so many texts, give the one of the highest ln P / length^length_penalty, length counting what is
    new.  end: a token to stop after.  source, source_mask: what an EncoderDecoder translates; its prompts are what the
    translations begin with.  Raises ValueError for what cannot be continued so, and, on the way, for logits that are
    not finite: the model has diverged.
    """
    model, split = model_of("generate", model), whole_of(model)
    prompts, padding = pad(prompt_ids)
    check_prompts(model, prompts, max_new_tokens)
    check_source(model, len(prompts), source, source_mask)
    check_choice("generate", temperature, top_k, top_p, beams)
    _check_rest(use_cache, seed, length_penalty, end, model.config.vocab_size)
    device, n = next(model.parameters()).device, len(prompts)

    def placed(x: Tensor) -> Tensor:
        return x.to(device).repeat_interleave(beams, 0)  # the beams of a prompt lie side by side

    gaps, sources = (None if x is None else placed(x) for x in (padding, source))
    masks = None if source_mask is None else placed(source_mask.expand(n, -1, -1, -1))
    with evaluating(model):  # not inference mode: what it makes cannot be communicated, nor trained on
        room = prompts.shape[1] + max_new_tokens
        reader = make_reader(model, placed(prompts), gaps, room, use_cache, sources, masks, split)
        if beams > 1:
            rows = beam_search(reader, max_new_tokens, beams, length_penalty, end)
        else:
            choose = sampler(n, max_new_tokens, temperature, top_k, top_p, seed) if temperature else greedy
            rows = extend(reader, max_new_tokens, choose, end)
    return like(rows, prompt_ids, padding, prompts.shape[1], end)


def _check_rest(use_cache: bool, seed: int, length_penalty: float, end: int | None, vocab_size: int) -> None:
    flag("generate", "use_cache", use_cache)
    whole("generate", "seed", seed)
    real("generate", "length_penalty", length_penalty)
    if end is not None:
        whole("generate", "end, a token (None: none),", end, least=0, most=vocab_size - 1)


def extend(reader: Reader, steps: int, choose: Choose, end: int | None = None) -> Tokens:
    """Add tokens one after another; a text that has come to its end gets `end` again, until all have."""
    ended = torch.zeros(len(reader.tokens), dtype=torch.bool, device=reader.tokens.device)
    for step in range(steps):
        new = choose(finite("generate", reader.logits()), step)
        if end is not None:
            new = new.masked_fill(ended, end)
            ended |= new == end
        reader.append(new)
        if end is not None and bool(ended.all()):
            break
    return reader.tokens


def beam_search(reader: Reader, steps: int, beams: int, length_penalty: float = 1.0, end: int | None = None) -> Tokens:
    """Extend each of `beams` texts per prompt by every token and keep the likeliest; at the end give the best.

    The reader holds the beams of a prompt side by side, at first all alike. A text that has come to its end stays a
    beam, with the probability it had.
    """
    n = len(reader.tokens) // beams
    first = torch.arange(n, device=reader.tokens.device)[:, None] * beams  # [n, 1]: the row of each prompt's first beam
    score = torch.zeros((n, beams), device=first.device)
    score[:, 1:] = -torch.inf  # of beams that are alike only one may go on, or all would stay alike
    length = torch.zeros((n, beams), device=first.device)
    ended = torch.zeros((n, beams), dtype=torch.bool, device=first.device)
    for _ in range(steps):
        log_p = wide(finite("generate", reader.logits())).log_softmax(-1).unflatten(0, (n, beams))  # [n, beams, V]
        if end is not None:
            log_p = log_p.masked_fill(ended[..., None], -torch.inf)
            log_p[..., end].masked_fill_(ended, 0.0)
        score, best = (score[..., None] + log_p).flatten(1).topk(beams)
        beam, new = best // log_p.shape[-1], best % log_p.shape[-1]  # [n, beams]
        length = (length + ~ended).gather(1, beam)
        ended = ended.gather(1, beam) | (new == end if end is not None else False)
        reader.select((first + beam).flatten())
        reader.append(new.flatten())
        if bool(ended.all()):
            break
    best = (score / length**length_penalty).argmax(1, keepdim=True)
    return reader.tokens[(first + best)[:, 0]]
