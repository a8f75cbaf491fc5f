"""What each rank keeps of a model under ZeRO: of its weights, its gradients and what the optimizer remembers."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from llmlab.arguments import choice, whole
from llmlab.cost.modes.zero import model_states
from llmlab.plot.flows import bare
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import FILLS, fill_style, listing, three_digits

STAGES = (0, 1, 2, 3)
KEPT = {"parameters": 2, "gradients": 2, "optimizer state": 12}  # bytes a parameter: 16 bits, and Adam in fp32
SHARDED_FROM = {"optimizer state": 1, "gradients": 2, "parameters": 3}  # Rajbhandari et al. 2020, section 5


@styled
def shards(stage: int, ranks: int = 4, figure: Picture | None = None) -> Picture:
    """Draw what each rank keeps under a stage (0: data parallelism); widths are bytes, a look belongs to its owner."""
    choice("shards", "stage", stage, STAGES)
    whole("shards", "ranks", ranks, least=2, most=len(FILLS))
    figure = canvas(figure, (9, 1.1 + 0.55 * ranks))
    axes = figure.subplots()
    name, each = _name(stage), sum(model_states(1, ranks, stage).values())
    axes.set_title(f"{name}: {three_digits(each)} bytes a parameter on each rank", loc="left")
    for rank in range(ranks):
        axes.text(-0.3, rank + 0.4, f"rank {rank}", ha="right", va="center")
        _draw_rank(axes, rank, ranks, stage)
    left = 0.0
    for kind, width in KEPT.items():
        axes.text(left + width / 2, ranks + 0.05, kind, ha="center", va="top", fontsize=11)
        left += width + 1
    bare(axes, -2.6, left, ranks + 0.6, -0.1)
    return finish(figure, describe_shards(stage, ranks))


def describe_shards(stage: int, ranks: int) -> str:
    """Say what is whole on every rank, what is cut, and the bytes of it."""
    cut = [kind for kind in KEPT if stage >= SHARDED_FROM[kind]]
    left = [kind for kind in KEPT if kind not in cut]
    said = f"{listing(left)} whole on every rank" if left else ""
    pieces = f"of {listing(cut)} each of {ranks} ranks keeps its own piece" if cut else ""
    each = three_digits(sum(model_states(1, ranks, stage).values()))
    return f"{_name(stage)}: {'; '.join(filter(None, (said, pieces)))}: {each} bytes a parameter."


def _name(stage: int) -> str:
    return f"ZeRO-{stage}" if stage else "data parallel"


def _draw_rank(axes: Axes, rank: int, ranks: int, stage: int) -> None:
    left = 0.0
    for kind, width in KEPT.items():
        for owner in range(ranks):
            here = owner == rank or stage < SHARDED_FROM[kind]
            style = fill_style(owner) if here else {"facecolor": "white", "edgecolor": "#BBBBBB", "linewidth": 0.5}
            place = left + owner * width / ranks, rank
            axes.add_patch(Rectangle(place, width / ranks, 0.8, label=kind if here else "", **style))
        left += width + 1
