"""What a user asks, what the engine keeps while it answers, and what the user gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from llmlab.arguments import instance, listing, real, whole
from llmlab.generation.prompts import ids_of
from llmlab.generation.sampling import check_choice


@dataclass(frozen=True)
class Request:
    """A prompt and how to go on: greedily, or at a temperature as `lab.generate` does with the same seed.

    arrives: seconds after `Engine.run` began.  stop: tokens after any of which the answer ends; it ends with it.
    Raises ValueError for what no engine could answer.
    """

    tokens: Any
    max_new_tokens: int = 16
    arrives: float = 0.0
    temperature: float = 0.0
    stop: Any = ()  # an id or a list of ids; kept as a tuple
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        ids = ids_of(self.tokens)
        if ids.dim() != 1 or not ids.numel():
            raise ValueError(f"Request wants tokens as a list of at least one id, got shape {list(ids.shape)}")
        stop = [self.stop] if isinstance(self.stop, int) else listing("Request", "stop", self.stop, "tokens")
        stop = [whole("Request", "each of stop, a token,", token, least=0) for token in stop]
        object.__setattr__(self, "tokens", tuple(ids.tolist()))
        object.__setattr__(self, "stop", tuple(stop))
        whole("Request", "max_new_tokens", self.max_new_tokens, least=1)
        real("Request", "arrives, in seconds,", self.arrives, least=0)
        check_choice("Request", self.temperature, self.top_k, self.top_p)
        whole("Request", "seed", self.seed)

    def check(self, vocab_size: int, max_seq: int, room: int) -> None:
        """Refuse what this model or this cache cannot hold; room: the tokens that all blocks together hold."""
        low, high = min(self.tokens), max(self.tokens)
        if low < 0 or high >= vocab_size:
            raise ValueError(f"token ids want 0 to {vocab_size - 1}, the model's vocabulary, got {low} to {high}")
        prompt, new = len(self.tokens), self.max_new_tokens
        if prompt + new > max_seq:
            raise ValueError(f"prompt and new tokens want at most max_seq={max_seq} together, got {prompt} + {new}")
        if prompt + new - 1 > room:  # the last token is given, and never read
            raise ValueError(
                f"a request wants blocks for its prompt and new tokens: all blocks together hold {room} tokens, "
                f"got {prompt} + {new}; give the engine more kv_blocks"
            )


@dataclass(frozen=True)
class Token:
    """One token of an answer, as it came. reason: why the answer ends with it ("length", "stop"), else None."""

    id: int
    token: int
    reason: str | None = None


@dataclass(frozen=True)
class Reply:
    """An answer. Times are the engine's clock, in seconds: when the request came, was first computed, and ended.

    times: of each token.  reused: tokens of the prompt that another request had computed.  preempted: how often it had
    to give its blocks back.  reason: "length", "stop" or "cancelled".
    """

    id: int
    tokens: tuple[int, ...]
    reason: str
    text: str | None
    prompt_tokens: int
    arrived: float
    started: float | None
    ended: float
    times: tuple[float, ...]
    reused: int = 0
    preempted: int = 0


@dataclass(eq=False)
class Sequence:
    """A request under way. tokens: prompt and answer so far; of the first `computed` the keys and values are held."""

    id: int
    request: Request
    arrived: float
    tokens: list[int] = field(init=False)
    blocks: list[int] = field(default_factory=list)  # the block table: token i lies in blocks[i // block]
    computed: int = 0
    registered: int = 0  # how many of the blocks others may find
    parent: int = 0  # the serial number of the last of those: see `BlockPool`
    drafted: int = 0  # of how many tokens a draft model holds keys and values
    started: float | None = None
    times: list[float] = field(default_factory=list)
    reused: int = 0
    preempted: int = 0
    uniform: torch.Generator | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.tokens)

    @property
    def prompt(self) -> int:
        return len(self.request.tokens)

    @property
    def new(self) -> int:
        return len(self.tokens) - self.prompt

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self.request.max_new_tokens - self.new

    @property
    def decoding(self) -> bool:
        """Whether all but the last token are computed, so that each further step gives a token."""
        return self.computed == len(self.tokens) - 1 and self.new > 0

    def draw(self) -> float:
        """Give the next of this request's own random numbers, uniform on [0, 1): those `lab.generate` would use."""
        if self.uniform is None:
            self.uniform = torch.Generator().manual_seed(self.request.seed)
        return float(torch.rand((), generator=self.uniform))

    def reply(self, reason: str, ended: float, tokenizer: Any) -> Reply:
        new = tuple(self.tokens[self.prompt :])
        text = None if tokenizer is None else tokenizer.decode(list(new))
        return Reply(
            self.id, new, reason, text, self.prompt, self.arrived, self.started, ended, tuple(self.times),
            self.reused, self.preempted,
        )  # fmt: skip


def check_request(request: Any) -> Request:
    return instance("the engine", "a request", request, Request, "lab.serving.Request(tokens=ids)")
