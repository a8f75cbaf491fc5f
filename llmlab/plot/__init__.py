"""Table in, figure out. Nothing is shown or saved; measured is solid, modelled is dashed, and the legend says which.

Every function returns a `Picture`: a matplotlib Figure with `alt`, the sentence that says what it shows. Each takes
`height=`, in inches; without it none is taller than a projector's screen.
"""

from llmlab.plot.blocks import block, encoder_decoder
from llmlab.plot.break_even import threshold, thresholds
from llmlab.plot.budgets import losses_by_size
from llmlab.plot.curves import alpha_beta, bars, lines, losses
from llmlab.plot.failures import checkpoint_interval
from llmlab.plot.gantts import gantt
from llmlab.plot.growths import growth
from llmlab.plot.heads import head
from llmlab.plot.heatmaps import grids
from llmlab.plot.lenses import logit_lens
from llmlab.plot.matrices import Matrix, products
from llmlab.plot.memories import memory, memory_card
from llmlab.plot.meshes import mesh
from llmlab.plot.picture import Picture, explore, show
from llmlab.plot.placements import placement
from llmlab.plot.predictions import by_cause, prediction
from llmlab.plot.rooflines import roofline
from llmlab.plot.rounds import all_reduce_messages, all_reduce_step
from llmlab.plot.scalings import scaling
from llmlab.plot.schedules import schedule
from llmlab.plot.sharding import shards
from llmlab.plot.speedups import speedup
from llmlab.plot.stacks import memory_bars
from llmlab.plot.stashes import stash
from llmlab.plot.style import say_bytes, say_memory, say_seconds
from llmlab.plot.surfaces import descent
from llmlab.plot.svg import timeline_svg
from llmlab.plot.time_shares import causes
from llmlab.plot.timelines import beside, compare_timelines, timeline
from llmlab.plot.tokens import token_boxes
from llmlab.plot.validations import errors, parity

__all__ = [
    "Matrix", "Picture", "all_reduce_messages", "all_reduce_step", "alpha_beta", "bars", "beside", "block", "by_cause",
    "causes", "checkpoint_interval", "compare_timelines",
    "descent", "encoder_decoder", "errors", "explore", "gantt", "grids", "growth",
    "head", "lines", "logit_lens", "losses", "losses_by_size", "memory", "memory_bars", "memory_card", "mesh", "parity",
    "placement", "prediction", "products", "roofline", "say_bytes", "say_memory", "say_seconds", "scaling",
    "schedule", "shards", "show", "speedup", "stash", "threshold", "thresholds", "timeline", "timeline_svg",
    "token_boxes",
]  # fmt: skip
