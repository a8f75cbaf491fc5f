"""Which token may come next: its probability as the model gives it, and after temperature, top-k and top-p."""

from __future__ import annotations

import torch

from llmlab.generation import probabilities
from llmlab.generation.next_tokens import NextTokens
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLUE, listing, three_digits


@styled
def next_token_bars(
    after: NextTokens,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    show: int = 14,
    figure: Picture | None = None,
) -> Picture:
    """Draw the likeliest tokens: filled as they would be drawn from, outlined as the model gives them."""
    plain, chosen = probabilities(after.logits), probabilities(after.logits, temperature, top_k, top_p)
    names = [repr(token)[1:-1] or "(nothing)" for token in after.tokens[:show]]
    figure = canvas(figure, (9, 4.8))
    axes = figure.subplots()
    places = range(len(names))
    axes.barh(places, chosen[:show].tolist(), 0.72, color=BLUE, label="what is drawn from")
    axes.barh(
        places, plain[:show].tolist(), 0.72, fill=False, edgecolor="black", linewidth=1.3, label="as the model gives it"
    )
    for place, p in zip(places, chosen[:show].tolist(), strict=True):
        text = f" {p:.3f}" if p else " cut"
        axes.annotate(text, (max(p, float(plain[place])), place), va="center", fontsize=11)
    axes.set_yticks(places, [f"“{name}”" for name in names], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(float(plain[0]), float(chosen[0])))
    axes.set_xlabel("probability of the next token")
    axes.legend(loc="lower right")
    return finish(figure, describe_next(after, chosen), f"After “{after.prompt}”. {after.source}".rstrip())


def describe_next(after: NextTokens, chosen: torch.Tensor) -> str:
    """Say how many tokens are left, which are the likeliest of them, and how spread out they are."""
    left = int((chosen > 0).sum())
    surprise = -torch.special.xlogy(chosen, chosen).sum().item()  # nats; 0 ln 0 is 0
    best = [f"“{token}” {p:.2f}" for token, p in zip(after.tokens[: min(3, left)], chosen[:3].tolist(), strict=False)]
    return (
        f"After “{after.prompt}” {left} of {len(after.tokens)} tokens can come: {listing(best)}; as open as a choice "
        f"among {three_digits(round(2.718281828**surprise, 1))} equally likely ones."
    )
