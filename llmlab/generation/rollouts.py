"""Texts that a model draws in order to learn from them, and how likely the model finds each token of them.

    advantage of answer i = its reward - the mean reward of its group        a group: answers to one prompt

A prompt that every answer gets right (or wrong) teaches nothing, whatever the reward's size: the group is the baseline
(Kool et al. 2019; Shao et al. 2024, GRPO, which also divides by the group's standard deviation).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from llmlab.arguments import instance, listing, whole
from llmlab.evaluate import evaluating
from llmlab.generation.decoding import extend
from llmlab.generation.readers import make_reader
from llmlab.generation.sampling import draw, probabilities
from llmlab.model import Transformer
from llmlab.model.language_model import Tokens


def roll_out(model: Transformer, prompts: Tokens, new: int, seeds: Sequence[int]) -> Tokens:
    """Continue each prompt by `new` tokens drawn from the model, [N, T] -> [N, T + new].

    seeds: one for each row, which alone decides its draws: a row is the same whoever generates it, beside whatever.
    """
    instance("roll_out", "model", model, Transformer)
    whole("roll_out", "new", new, least=1)
    if len(listing("roll_out", "seeds", seeds)) != len(prompts):
        raise ValueError(f"roll_out wants a seed for each of {len(prompts)} prompts, got {len(seeds)}")
    u = torch.stack([torch.rand(new, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def choose(logits: Float[Tensor, "B V"], step: int) -> Tensor:
        return draw(probabilities(logits), u[:, step].to(logits.device))

    with evaluating(model):
        reader = make_reader(model, prompts, None, prompts.shape[1] + new, True, None, None, None)
        return extend(reader, new, choose)


def log_probabilities(model: Transformer, tokens: Tokens, new: int) -> Float[Tensor, "B new"]:
    """Compute ln p of each of the last `new` tokens, given those before it."""
    log_p = model(tokens[:, :-1])[:, -new:].log_softmax(-1)
    return log_p.gather(-1, tokens[:, -new:, None])[..., 0]


def group_advantages(rewards: Float[Tensor, " N"], group: int) -> Float[Tensor, " N"]:
    """Take from each reward the mean of its group, whose answers lie side by side."""
    groups = rewards.unflatten(0, (-1, group))
    return (groups - groups.mean(1, keepdim=True)).flatten()


def policy_loss(
    log_p: Float[Tensor, "B new"],
    drawn_at: Float[Tensor, "B new"],
    advantages: Float[Tensor, " B"],
    clip: float | None = 0.2,
) -> Float[Tensor, ""]:
    """Compute the loss whose gradient makes answers of positive advantage likelier.

    drawn_at: ln p of the tokens when they were drawn, by weights that may be older. With ratio = p / p_then

        clip=c       -mean(min(ratio A, clamp(ratio, 1 - c, 1 + c) A))      Schulman et al. 2017 (PPO), equation 7
        clip=None    -mean(A ln p)                                          Williams 1992 (REINFORCE): as if just drawn

    On fresh answers the ratio is 1 and both have the same gradient.
    """
    each = advantages[:, None]
    if clip is None:
        return -(each * log_p).mean()
    ratio = (log_p - drawn_at).exp()
    return -torch.minimum(ratio * each, ratio.clamp(1 - clip, 1 + clip) * each).mean()
