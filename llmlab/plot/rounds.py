"""An all-reduce drawn: a step of it, who talks to whom and what each holds then; and all its messages, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from llmlab.arguments import choices, whole
from llmlab.plot.messages import ALL_REDUCE, Held, Message, Step, all_reduce_steps, held_after
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLACK, BLUE, GREEN, PALE, SKY, VERMILION, listing, three_digits

Places = list[tuple[float, float]]  # of the ranks, x to the right and y up
COLOURS = "Blue: added up. Orange: passed on."
RADIUS = 0.135  # eight in a row do not touch


@styled
def all_reduce_step(algorithm: str = "ring", ranks: int = 4, step: int = 0, figure: Picture | None = None) -> Picture:
    """Draw one step of an all-reduce: its messages between the ranks, and what each rank holds after it.

    step: from 0, before anything is sent, to the last. A cell names the ranks whose values are added up in it, Σ all of
    them; a thick edge marks what came in this step.
    """
    steps = all_reduce_steps(algorithm, ranks)
    whole("all_reduce_step", "step", step, least=0, most=len(steps))
    messages: Step = steps[step - 1] if step else []
    held = held_after(steps[:step], ranks)
    figure = canvas(figure, (9, 1.3 + 0.42 * max(ranks, 5)))
    network, table = figure.subplots(1, 2, width_ratios=(1, 1.9))
    _draw_network(network, _places(algorithm, ranks), [m for each in steps for m in each], messages)
    network.set_title(f"{_spoken(algorithm)}, step {step} of {len(steps)}", loc="left")
    _draw_table(table, held, messages)
    table.set_title("who is added up in each chunk", loc="left")
    below = f"{COLOURS} A thick edge: it came in this step. Σ: added up over all ranks."
    return finish(figure, describe_step(algorithm, ranks, step), below)


def describe_step(algorithm: str, ranks: int, step: int) -> str:
    """Say who sends what to whom in this step, and which chunks are complete after it."""
    steps = all_reduce_steps(algorithm, ranks)
    held = held_after(steps[:step], ranks)
    said = [f"rank {m.src} sends {_letters(m.chunks, ranks)} to {m.dst}" for m in (steps[step - 1] if step else [])]
    complete = sum(len(who) == ranks for row in held for who in row)
    return (
        f"{_spoken(algorithm)} on {ranks} ranks, step {step} of {len(steps)}: "
        f"{listing(said) or 'nothing is sent yet'}; after it {complete} of {ranks * ranks} chunks are complete."
    )


@styled
def all_reduce_messages(
    algorithms: Sequence[str] = ("ring", "tree", "halving_doubling"), ranks: int = 8, figure: Picture | None = None
) -> Picture:
    """Draw all messages of an all-reduce from left to right, a panel for each algorithm: step against rank.

    A line is as wide as the share of the n bytes that it carries.
    """
    names = choices("all_reduce_messages", "algorithms", algorithms, ALL_REDUCE)
    found = {name: all_reduce_steps(name, ranks) for name in names}
    figure = canvas(figure, (9, 1.6 + 0.32 * ranks))
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, steps) in zip(panels, found.items(), strict=True):
        _draw_messages(axes, steps, ranks)
        axes.set_title(f"{_spoken(name)}\n{len(steps)} steps, {_most(steps, ranks)} n sent", loc="left", fontsize=12)
    panels[0].set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    panels[0].set_ylim(ranks - 0.6, -0.4)  # rank 0 on top
    below = f"{COLOURS} Width: the share of the n bytes a message carries. Sent: by the busiest rank."
    return finish(figure, describe_messages(names, ranks), below)


def describe_messages(algorithms: Sequence[str], ranks: int) -> str:
    """Say of each algorithm how many steps it takes, how many messages, and how large they are."""
    said = []
    for name in algorithms:
        steps = all_reduce_steps(name, ranks)
        shares = sorted({len(m.chunks) / ranks for each in steps for m in each})
        sizes = " to ".join(dict.fromkeys((three_digits(shares[0]), three_digits(shares[-1]))))
        messages = sum(map(len, steps))
        said.append(f"{_spoken(name)} {len(steps)} steps with {messages} messages of {sizes} n, the busiest rank sends")
        said[-1] += f" {_most(steps, ranks)} n"
    return f"Messages of an all-reduce of n bytes on {ranks} ranks: {listing(said)}."


def _most(steps: list[Step], ranks: int) -> str:
    """Tensors sent by the rank that sends most."""
    sent = [sum(len(m.chunks) for each in steps for m in each if m.src == rank) for rank in range(ranks)]
    return three_digits(max(sent) / ranks)


def _draw_messages(axes: Axes, steps: list[Step], ranks: int) -> None:
    messages = [(k, m) for k, each in enumerate(steps) for m in each]
    lines = [[(k, m.src), (k + 1, m.dst)] for k, m in messages]
    widths = [0.6 + 3.4 * len(m.chunks) / ranks for _, m in messages]
    colours = [BLUE if m.adds else VERMILION for _, m in messages]
    axes.add_collection(LineCollection(lines, linewidths=widths, colors=colours))
    for k in range(len(steps) + 1):
        axes.plot([k] * ranks, range(ranks), "o", color=BLACK, markersize=3)
    axes.set_xlim(-0.4, len(steps) + 0.4)
    axes.set_xticks(range(0, len(steps) + 1, 2))
    axes.set_xlabel("step")


def _places(algorithm: str, ranks: int) -> Places:
    """On a circle, rank 0 on top; or, where messages go up and down a tree, each rank under its parent."""
    if algorithm in ("tree", "naive"):
        return _hanging(ranks, 1 if algorithm == "naive" else 0)
    angles = [pi / 2 - 2 * pi * rank / ranks for rank in range(ranks)]
    return [(cos(angle), sin(angle)) for angle in angles]


def _hanging(ranks: int, flat: int) -> Places:
    """A rank's depth is how many bits are set in it (1 for all but the root, if flat); leaves go from left to right."""
    depth = [min(rank, 1) if flat else bin(rank).count("1") for rank in range(ranks)]
    deepest, width = max(depth), 2.0 / max(ranks - 1, 1)
    return [(rank * width - 1, 1 - 2 * depth[rank] / deepest) for rank in range(ranks)]


def _draw_network(axes: Axes, places: Places, links: list[Message], messages: Step) -> None:
    for a, b in sorted({(min(m.src, m.dst), max(m.src, m.dst)) for m in links}):
        axes.plot(*zip(places[a], places[b], strict=True), color="#D0D0D0", linewidth=1.5, zorder=1)
    for m in messages:
        arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 2, "zorder": 2}
        both = any((other.src, other.dst) == (m.dst, m.src) for other in messages)
        bend = f"arc3,rad={0.18 if both else 0}"
        colour = BLUE if m.adds else VERMILION
        arrow |= {"color": colour, "shrinkA": 11, "shrinkB": 11, "connectionstyle": bend}
        axes.add_patch(FancyArrowPatch(places[m.src], places[m.dst], label=f"{m.src} to {m.dst}", **arrow))
    for rank, place in enumerate(places):
        axes.add_patch(Circle(place, RADIUS, facecolor="white", edgecolor=BLACK, linewidth=1.5, zorder=3))
        axes.text(*place, str(rank), ha="center", va="center", fontsize=12, zorder=4)
    axes.set_xlim(-1.3, 1.3)
    axes.set_ylim(-1.3, 1.3)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _draw_table(axes: Axes, held: Held, messages: Step) -> None:
    """A row for each rank, a column for each chunk; beside it what the rank sends in this step."""
    ranks = len(held)
    came = {(m.dst, c) for m in messages for c in m.chunks}
    for rank, row in enumerate(held):
        for c, who in enumerate(row):
            _draw_cell(axes, rank, c, who, ranks, (rank, c) in came)
        sends = [f"{_letters(m.chunks, ranks)} to {m.dst}" for m in messages if m.src == rank]
        axes.text(ranks + 0.15, rank + 0.5, f"sent {listing(sends)}" if sends else "", va="center", fontsize=11)
    axes.set_xlim(0, ranks * 1.35)  # room for what is sent
    axes.set_ylim(ranks, 0)  # rank 0 on top
    axes.set_yticks([r + 0.5 for r in range(ranks)], [f"rank {r}" for r in range(ranks)])
    axes.set_xticks([c + 0.5 for c in range(ranks)], list("abcdefgh"[:ranks]))
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_cell(axes: Axes, rank: int, c: int, who: frozenset[int], ranks: int, new: bool) -> None:
    fill = PALE if len(who) == 1 else GREEN if len(who) == ranks else SKY
    edge: dict[str, Any] = {"edgecolor": BLACK, "linewidth": 2.5 if new else 0.6}
    axes.add_patch(Rectangle((c + 0.05, rank + 0.1), 0.9, 0.8, facecolor=fill, **edge))
    label = "Σ" if len(who) == ranks else "".join(map(str, sorted(who)))
    size = 12 if ranks <= 4 else 8 if len(label) > 4 else 10
    axes.text(c + 0.5, rank + 0.5, label, ha="center", va="center_baseline", fontsize=size)


def _letters(chunks: Sequence[int], ranks: int) -> str:
    """Name chunks by their letters: `c`, `ab`, `all`."""
    return "all" if len(chunks) == ranks else "".join("abcdefgh"[c] for c in chunks)


def _spoken(algorithm: str) -> str:
    return algorithm.replace("_", "-")
