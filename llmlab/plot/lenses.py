"""The logit lens as a table: the likeliest token of each layer at each position, darker where it is likelier."""

from __future__ import annotations

from llmlab.arguments import instance
from llmlab.interpreting import TopTokens
from llmlab.plot.heatmaps import POSITIVE
from llmlab.plot.picture import Picture, canvas, finish, styled

MOST_LETTERS = 10  # of a token in its square


@styled
def logit_lens(top: TopTokens, every: int = 1, figure: Picture | None = None) -> Picture:
    """Draw what each layer would say at each position, the last layer on top.

    every: draw each so many layers, counted from the last.
    """
    instance("logit_lens", "top", top, TopTokens, "lab.interpreting.top_tokens(model, tokenizer, text)")
    layers = list(range(len(top.words) - 1, -1, -every))
    figure = canvas(figure, (9, min(9.5, 1.6 + 0.33 * len(layers))))
    axes = figure.subplots()
    p = [[float(top.p[layer, t]) for t in range(len(top.tokens))] for layer in layers]
    picture = axes.imshow(p, cmap=POSITIVE, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for row, layer in enumerate(layers):
        for t, word in enumerate(top.words[layer]):
            colour = "white" if p[row][t] > 0.6 else "black"
            axes.text(t, row, shown(word), ha="center", va="center", fontsize=9.5, color=colour, parse_math=False)
    axes.set_xticks(range(len(top.tokens)), [shown(token) for token in top.tokens])
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.set_xlabel("token read")
    axes.set_ylabel("after block")
    figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02, label="probability")
    return finish(figure, describe_lens(top))


def describe_lens(top: TopTokens) -> str:
    """Say what the last position comes to, and from which layer on."""
    last, sure = [row[-1] for row in top.words], float(top.p[-1, -1])
    since = len(last) - 1
    while since and last[since - 1] == last[-1]:
        since -= 1
    return (
        f"The logit lens, {len(last) - 1} layers by {len(top.tokens)} tokens: after {''.join(top.tokens)!r} the model "
        f"says {last[-1]!r} with probability {sure:.2f}; that is the likeliest token from layer {since} on, while "
        f"before the first block it is {last[0]!r}."
    )


def shown(token: str) -> str:
    """Give a token so that its blanks and line ends can be seen, cut where it is long or cannot be drawn."""
    visible = token.replace(" ", "·").replace("\n", "¶").replace("\t", "→")
    drawable = "".join(c if c.isprintable() and ord(c) < 0x2E80 else "▯" for c in visible)
    return drawable if len(drawable) <= MOST_LETTERS else f"{drawable[: MOST_LETTERS - 1]}…"
