"""How a text is cut into tokens: a box around each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmlab.arguments import instances, table
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import FILLS, text_on

COLUMNS = 76  # characters in a line of boxes
COLOURS = [colour for colour, _ in FILLS[1:4]]  # neighbours differ; their edges say so without colour


@styled
def token_boxes(cuts: Mapping[str, Sequence[bytes]], figure: Picture | None = None) -> Picture:
    """Draw {title: tokens}, each title with its tokens as boxes below it.

    Bytes that are no printable ASCII are written as two hexadecimal digits each, as the figure's font has no Chinese.
    """
    rows = {
        title: lines_of([*map(printable, instances("token_boxes", title, tokens, bytes, "as tokenizer.vocab[i]"))])
        for title, tokens in table("token_boxes", "cuts", cuts, "{title: tokens}").items()
    }
    height = sum(len(lines) + 1.1 for lines in rows.values())
    figure = canvas(figure, (9, 0.32 * height + 0.2))
    axes = figure.subplots()
    axes.set_xlim(0, COLUMNS)
    axes.set_ylim(height, -0.4)
    axes.axis("off")
    top, i = 0.0, 0
    for title, lines in rows.items():
        axes.text(0, top, title, fontsize=11, fontweight="bold", va="center")
        for line in lines:
            top, column = top + 1, 0.0
            for shown in line:
                colour, i = COLOURS[i % len(COLOURS)], i + 1
                width = len(shown) + 0.6
                axes.barh(top, width - 0.2, 0.8, column, color=colour, edgecolor="black", linewidth=0.8)
                axes.text(
                    column + width / 2 - 0.1, top, shown, ha="center", va="center", family="monospace", fontsize=10,
                    color=text_on(colour),
                )  # fmt: skip
                column += width
        top += 1.1
    return finish(figure, describe_tokens(cuts))


def describe_tokens(cuts: Mapping[str, Sequence[bytes]]) -> str:
    """Say how many tokens each list has, and how many bytes one has on average."""
    said = []
    for title, tokens in cuts.items():
        nbytes = sum(map(len, tokens))
        said.append(f"{title}: {nbytes} bytes in {len(tokens)} tokens, {nbytes / max(1, len(tokens)):.2f} bytes each")
    return f"{'; '.join(said)}."


def printable(token: bytes) -> str:
    """Write a token so that each of its bytes is seen: a blank as "_", what does not print in hexadecimal."""
    return "".join(chr(b) if 32 < b < 127 else "_" if b == 32 else f"{b:02X}" for b in token)


def lines_of(shown: Sequence[str]) -> list[list[str]]:
    """Put boxes into lines of at most COLUMNS characters."""
    lines: list[list[str]] = [[]]
    used = 0.0
    for text in shown:
        width = len(text) + 0.6
        if lines[-1] and used + width > COLUMNS:
            lines.append([])
            used = 0.0
        lines[-1].append(text)
        used += width
    return lines
