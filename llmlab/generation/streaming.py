"""Tokens as they come: the text that `generate` writes, one token at a time, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmlab.arguments import whole
from llmlab.evaluate import evaluating
from llmlab.evaluate.scores import finite
from llmlab.generation.prompts import Prompts, check_prompts, check_source, pad
from llmlab.generation.readers import Reader, make_reader
from llmlab.generation.sampling import Choose, check_choice, greedy, sampler
from llmlab.model.whole import model_of, whole_of


def stream(
    model: Any,
    prompt_ids: Prompts,
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    *,
    end: int | None = None,
) -> Iterator[int]:
    """Give the tokens that `generate` adds to one prompt, each as soon as it is chosen; stop before `end`."""
    one: Any = model_of("stream", model)
    prompt, _ = pad(prompt_ids)
    if len(prompt) != 1:
        raise ValueError(f"stream wants one prompt, got {len(prompt)}: generate takes many")
    check_prompts(one, prompt, max_new_tokens)
    check_source(one, 1, None, None)
    check_choice("stream", temperature, top_k, top_p)
    whole("stream", "seed", seed)
    choose = sampler(1, max_new_tokens, temperature, top_k, top_p, seed) if temperature else greedy
    prompt = prompt.to(next(one.parameters()).device)
    reader = make_reader(one, prompt, None, prompt.shape[1] + max_new_tokens, True, whole=whole_of(model))
    return _tokens(one, reader, max_new_tokens, choose, end)


def _tokens(model: Any, reader: Reader, steps: int, choose: Choose, end: int | None) -> Iterator[int]:
    for step in range(steps):
        with evaluating(model):  # not around the yield: gradients would be off for whoever takes the tokens
            new = choose(finite("stream", reader.logits()), step)
        if int(new) == end:
            return
        reader.append(new)
        yield int(new)


def as_text(tokens: Iterable[int], tokenizer: Any) -> Iterator[str]:
    """Give the text of tokens piece by piece; a character whose bytes are in two tokens comes with the second."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.decode(ids)[len(shown) :]:
        yield rest


class Stopwatch:
    """Pass tokens on and note when they came: `for token in (watch := Stopwatch(stream(...), len(prompt))): ...`

    The first token takes the reading of the whole prompt (prefill, TTFT); each later one a step of its own (decode,
    TPOT). Time between tokens that the taker spends is his, and not counted.
    """

    def __init__(self, tokens: Iterable[int], prompt: int, clock: Callable[[], float] = time.perf_counter):
        self.tokens, self.prompt, self.clock = iter(tokens), whole("Stopwatch", "prompt", prompt, least=1), clock
        self.seconds: list[float] = []  # of each token

    def __iter__(self) -> Iterator[int]:
        while True:
            start = self.clock()
            try:
                token = next(self.tokens)
            except StopIteration:
                return
            self.seconds.append(self.clock() - start)
            yield token

    @property
    def prefill(self) -> float:
        """Tokens of the prompt read per second, up to the first new one."""
        return self.prompt / self.seconds[0] if self.seconds else 0.0

    @property
    def decode(self) -> float:
        """New tokens per second, after the first."""
        return len(self.seconds[1:]) / sum(self.seconds[1:]) if self.seconds[1:] else 0.0

    def __str__(self) -> str:
        return (
            f"{self.prompt} tokens read at {self.prefill:,.0f} per second, "
            f"{len(self.seconds)} written at {self.decode:,.1f} per second"
        )
