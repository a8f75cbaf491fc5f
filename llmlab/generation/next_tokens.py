"""What a model would say next: the likeliest tokens after a prompt and their logits, computed now or recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from llmlab.arguments import string, whole
from llmlab.evaluate import evaluating
from llmlab.evaluate.scores import finite
from llmlab.generation.prompts import check_prompts, pad
from llmlab.hardware.facts import read_facts
from llmlab.model.whole import model_of, used_whole
from llmlab.text import BPE

RECORDED = ("recorded", "next_tokens.csv")  # under data/; benchmarks/next_tokens.py writes it


@dataclass(frozen=True)
class NextTokens:
    """The likeliest tokens after a prompt, the likeliest first, and the logit of each."""

    prompt: str
    tokens: Sequence[str]
    logits: Float[Tensor, " N"]
    source: str  # which model said so

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.logits) >= 1:
            raise ValueError(f"a logit for each token, and at least one: got {len(self.logits)}, {len(self.tokens)}")


def next_tokens(model: Any, tokenizer: BPE, prompt: str, keep: int = 500, source: str = "") -> NextTokens:
    """Ask a model, or a step's, for the `keep` likeliest tokens after a prompt."""
    keep = whole("next_tokens", "keep", keep, least=1)
    if not hasattr(tokenizer, "encode"):
        raise ValueError(f"next_tokens wants a tokenizer, got a {type(tokenizer).__name__}")
    ids, _ = pad(tokenizer.encode(string("next_tokens", "prompt", prompt)))
    check_prompts(model_of("next_tokens", model), ids, 1)
    with used_whole("next_tokens", model) as one, evaluating(one):
        logits = finite("next_tokens", one(ids.to(next(one.parameters()).device))[0, -1]).cpu()
    best = logits.topk(min(keep, len(logits)))
    return NextTokens(prompt, [tokenizer.decode([i]) for i in best.indices.tolist()], best.values, source)


def recorded_next_tokens() -> list[NextTokens]:
    """Read what a real model said after some prompts, from `data/`: it needs no weights and no network."""
    rows = read_facts(*RECORDED)
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    return [_of(prompt, [row for row in rows if row["prompt"] == prompt]) for prompt in prompts]


def _of(prompt: str, rows: list[dict[str, str]]) -> NextTokens:
    logits = torch.tensor([float(row["logit"]) for row in rows])
    return NextTokens(prompt, [row["token"] for row in rows], logits, rows[0]["model"])
