"""Which pipeline schedule, and how many microbatches? Sliders on the drawn schedule, its bubble and what it holds."""

from __future__ import annotations

import ipywidgets as W

from llmlab.parallel.schedules import NAMES
from llmlab.plot import Picture, explore
from llmlab.plot.schedules import schedule
from llmlab.widgets.sliders import choice


def schedule_explorer(
    name: str = "1f1b", *, ranks: int = 4, microbatches: int = 8, stages_per_rank: int = 2, hop: float = 0.0
) -> W.VBox:
    """Explore a schedule: which, on how many ranks, with how many microbatches, and how long a message takes.

    stages_per_rank: of "interleaved" alone, which also takes microbatches in whole rounds of the ranks. hop: in
    forwards of one microbatch.
    """
    return explore(
        draw_schedule,
        name=choice("schedule", NAMES, name),
        ranks=choice("ranks", list(range(1, 9)), ranks),
        microbatches=choice("microbatches", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32], microbatches),
        stages_per_rank=choice("stages on a rank", [1, 2, 3, 4], stages_per_rank),
        hop=choice("a message takes", [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0], hop),
    )


def draw_schedule(
    figure: Picture, name: str, ranks: int, microbatches: int, stages_per_rank: int, hop: float
) -> Picture:
    """Draw what the sliders say, rounding the microbatches up to a whole round where they are interleaved."""
    if name != "interleaved":
        return schedule(name, ranks, microbatches, hop=hop, figure=figure)
    whole = -(-microbatches // ranks) * ranks
    picture = schedule(name, ranks, whole, virtual_stages=stages_per_rank, hop=hop, figure=figure)
    if whole != microbatches:
        picture.alt += f" (It takes microbatches in rounds of {ranks}: {whole}, not {microbatches}.)"
    return picture
