"""Table in, figure out. Nothing is shown or saved; measured is solid, modelled is dashed, and the legend says which.

Every function returns a `Picture`: a matplotlib Figure with `alt`, the sentence that says what it shows.
"""

from llmlab.plot.curves import alpha_beta, bars, lines, losses
from llmlab.plot.memories import memory, memory_card
from llmlab.plot.picture import Picture, explore, show
from llmlab.plot.placements import placement
from llmlab.plot.predictions import prediction
from llmlab.plot.rooflines import roofline
from llmlab.plot.scalings import scaling
from llmlab.plot.schedules import schedule
from llmlab.plot.speedups import speedup
from llmlab.plot.style import say_bytes, say_memory, say_seconds
from llmlab.plot.svg import timeline_svg
from llmlab.plot.time_shares import causes
from llmlab.plot.timelines import compare_timelines, timeline

__all__ = [
    "Picture", "alpha_beta", "bars", "causes", "compare_timelines", "explore", "lines", "losses", "memory",
    "memory_card", "placement", "prediction", "roofline", "say_bytes", "say_memory", "say_seconds", "scaling",
    "schedule", "show", "speedup", "timeline", "timeline_svg",
]  # fmt: skip
